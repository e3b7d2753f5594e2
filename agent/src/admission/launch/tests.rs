use proptest::prelude::*;

use super::*;

fn read_in(command: &[&str], env: &[(&str, &str)], cwd: &Path) -> Result<LaunchDefinition, LaunchError> {
    let argv: Vec<String> = command.iter().map(|word| (*word).into()).collect();
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    from_argv(&argv, &env, cwd)
}

/// Splits at blanks: the commands of these tests have none inside of a word.
fn read(command: &str) -> Result<LaunchDefinition, LaunchError> {
    read_in(&command.split(' ').collect::<Vec<_>>(), &[], Path::new("/nonexistent"))
}

fn npm(command: &str) -> (String, Option<String>, Option<String>, String) {
    let launch = read(command).unwrap_or_else(|e| panic!("{command}: {e}"));
    match launch.source {
        Source::Npm { package, version, bin } => (package, version, bin, launch.args.join(" ")),
        other => panic!("{command}: {other:?}"),
    }
}

fn pypi(command: &str) -> (String, Option<String>, Option<String>, Option<String>, String) {
    let launch = read(command).unwrap_or_else(|e| panic!("{command}: {e}"));
    match launch.source {
        Source::Pypi { package, version, script, module, .. } => {
            (package, version, script, module, launch.args.join(" "))
        }
        other => panic!("{command}: {other:?}"),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

const EVERYTHING: &str = "@modelcontextprotocol/server-everything";

#[test]
fn npx_in_every_shape_names_its_package() {
    let plain = (EVERYTHING.to_owned(), None, None, "stdio".to_owned());
    for command in [
        "npx -y @modelcontextprotocol/server-everything stdio",
        "npx --yes -- @modelcontextprotocol/server-everything stdio",
        "npx -q --cache /tmp/c @modelcontextprotocol/server-everything@latest stdio",
        "/usr/bin/npx @modelcontextprotocol/server-everything stdio",
        "node /usr/bin/npx -y @modelcontextprotocol/server-everything stdio",
        "node --no-warnings -r x /usr/lib/node_modules/npm/bin/npx-cli.js -y @modelcontextprotocol/server-everything stdio",
        "/usr/bin/env node /usr/bin/npx -y @modelcontextprotocol/server-everything stdio",
        "/usr/bin/env A=b npx -y @modelcontextprotocol/server-everything stdio",
        "npm exec -y -- @modelcontextprotocol/server-everything stdio",
        "npm --silent x @modelcontextprotocol/server-everything stdio",
        "node /usr/bin/npm exec @modelcontextprotocol/server-everything stdio",
        "bunx @modelcontextprotocol/server-everything stdio",
        "bun x @modelcontextprotocol/server-everything stdio",
        "pnpm dlx @modelcontextprotocol/server-everything stdio",
        "yarn dlx -q @modelcontextprotocol/server-everything stdio",
    ] {
        assert_eq!(npm(command), plain, "{command}");
    }
    assert_eq!(npm("npx -y mcp-x@1.2.3"), ("mcp-x".into(), some("1.2.3"), None, String::new()));
    assert_eq!(npm("npx @s/x@^1.0 a"), ("@s/x".into(), some("^1.0"), None, "a".into()));
    assert_eq!(
        npm("npx -p @s/x@2.0.0 x-server --flag"),
        ("@s/x".into(), some("2.0.0"), some("x-server"), "--flag".into())
    );
    assert_eq!(npm("npx --package=@s/x -- x-server"), ("@s/x".into(), None, some("x-server"), String::new()));
    assert_eq!(npm("npx x@npm:@evil/y@1.0.0"), ("@evil/y".into(), some("1.0.0"), None, String::new()));
}

#[test]
fn options_after_the_package_belong_to_the_server() {
    assert_eq!(npm("npx -y mcp-x -y --package z"), ("mcp-x".into(), None, None, "-y --package z".into()));
    assert_eq!(pypi("uvx mcp-x --from y").4, "--from y");
}

#[test]
fn uvx_and_its_relatives_name_their_project() {
    let time = |args: &str| ("mcp-server-time".to_owned(), None, None, None, args.to_owned());
    for command in [
        "uvx mcp-server-time --local-timezone=UTC",
        "uvx -q --python 3.12 mcp-server-time@latest --local-timezone=UTC",
        "uv tool run mcp-server-time --local-timezone=UTC",
        "/root/.local/bin/uv --offline tool run mcp-server-time --local-timezone=UTC",
        "pipx run mcp-server-time --local-timezone=UTC",
        "pipx run --no-cache mcp-server-time --local-timezone=UTC",
    ] {
        assert_eq!(pypi(command), time("--local-timezone=UTC"), "{command}");
    }
    assert_eq!(pypi("uvx mcp-x==1.2").1, some("1.2"));
    assert_eq!(pypi("uvx mcp-x@1.2").1, some("1.2"));
    assert_eq!(pypi("uvx mcp-x>=1,<2").1, some(">=1,<2"));
    assert_eq!(
        pypi("uvx --from mcp-x[cli]==1.0 x-run a"),
        ("mcp-x[cli]".into(), some("1.0"), some("x-run"), None, "a".into())
    );
    assert_eq!(pypi("pipx run --spec mcp-x x-run"), ("mcp-x".into(), None, some("x-run"), None, String::new()));
    assert_eq!(pypi("uv run --with mcp-x mcp-x a"), ("mcp-x".into(), None, some("mcp-x"), None, "a".into()));
    assert_eq!(pypi("uv run --with mcp-x python -m mcp_x a"), ("mcp-x".into(), None, None, some("mcp_x"), "a".into()));
}

#[test]
fn further_requirements_are_kept() {
    let with = |command: &str| match read(command).unwrap_or_else(|e| panic!("{command}: {e}")).source {
        Source::Pypi { package, with, .. } => (package, with.join(" ")),
        other => panic!("{command}: {other:?}"),
    };
    assert_eq!(with("uvx --with mcp<2 mcp-x a"), ("mcp-x".into(), "mcp<2".into()));
    assert_eq!(with("uvx --with mcp>=1,<2 --with=b==1 mcp-x"), ("mcp-x".into(), "mcp>=1,<2 b==1".into()));
    assert_eq!(with("uvx --with a[b,c],d --from mcp-y mcp-x"), ("mcp-y".into(), "a[b,c] d".into()));
    assert_eq!(with("uv run --with mcp<2 --with mcp_x mcp-x a"), ("mcp_x".into(), "mcp<2".into()));
    assert_eq!(with("pipx run --preinstall b mcp-x"), ("mcp-x".into(), "b".into()));
}

#[test]
fn a_module_without_an_installed_project_is_named_after_the_module() {
    let found = pypi("/nonexistent/bin/python3 -u -X utf8 -m mcp_server_time --x");
    assert_eq!(found, ("mcp-server-time".into(), None, None, some("mcp_server_time"), "--x".into()));
    assert_eq!(pypi("/nonexistent/bin/python3.12 -Im mcp_x.server").3, some("mcp_x.server"));
}

/// A virtual environment with one installed distribution.
fn venv(root: &Path) -> PathBuf {
    let site = root.join("lib/python3.11/site-packages");
    let info = site.join("Mcp_Server_Time-2025.1.dist-info");
    std::fs::create_dir_all(&info).unwrap();
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    std::fs::write(
        info.join("METADATA"),
        "Metadata-Version: 2.1\nName: mcp-server-time\nVersion: 2025.1\n\nVersion: 9\n",
    )
    .unwrap();
    std::fs::write(info.join("RECORD"), "mcp_server_time/__init__.py,sha256=x,1\nmcp_server_time/__main__.py,,\n")
        .unwrap();
    std::fs::write(
        info.join("entry_points.txt"),
        "[console_scripts]\nmcp-server-time = mcp_server_time:main\n\n[x]\nother = a:b\n",
    )
    .unwrap();
    let python = root.join("bin/python3");
    std::os::unix::fs::symlink("/usr/bin/true", &python).unwrap();
    let script = root.join("bin/mcp-server-time");
    std::fs::write(&script, format!("#!{}\nimport sys\n", python.display())).unwrap();
    python
}

#[test]
fn an_installed_module_or_console_script_is_its_exact_distribution() {
    let dir = tempfile::tempdir().unwrap();
    let python = venv(dir.path());
    let (python, script) = (python.to_str().unwrap(), dir.path().join("bin/mcp-server-time"));
    let script = script.to_str().unwrap();
    let package = || "mcp-server-time".to_owned();
    assert_eq!(
        pypi(&format!("{python} -m mcp_server_time a")),
        (package(), some("2025.1"), None, some("mcp_server_time"), "a".into())
    );
    for command in [format!("{script} a"), format!("{python} {script} a")] {
        assert_eq!(pypi(&command), (package(), some("2025.1"), some("mcp-server-time"), None, "a".into()), "{command}");
    }
    // pip's form for long interpreter paths.
    std::fs::write(script, format!("#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n")).unwrap();
    assert_eq!(pypi(&format!("{script} a")).1, some("2025.1"));
}

#[test]
fn an_editable_install_is_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let python = venv(dir.path());
    let project = dir.path().join("work/project");
    std::fs::create_dir_all(&project).unwrap();
    let info = dir.path().join("lib/python3.11/site-packages/Mcp_Server_Time-2025.1.dist-info");
    std::fs::write(
        info.join("direct_url.json"),
        format!(r#"{{"url":"file://{}","dir_info":{{"editable":true}}}}"#, project.display()),
    )
    .unwrap();
    let launch = read(&format!("{} -m mcp_server_time", python.display())).unwrap();
    assert_eq!(
        launch.source,
        Source::Local { path: project, run: vec!["python3".into(), "-m".into(), "mcp_server_time".into()] }
    );
    std::fs::write(info.join("direct_url.json"), r#"{"url":"https://x/y.git","vcs_info":{"vcs":"git"}}"#).unwrap();
    let error = read(&format!("{} -m mcp_server_time", python.display())).unwrap_err();
    assert!(error.to_string().contains("no package index"), "{error}");
}

fn package(root: &Path, json: &str, file: &str) -> PathBuf {
    std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
    std::fs::write(root.join("package.json"), json).unwrap();
    std::fs::write(root.join(file), "#!/usr/bin/env node\n").unwrap();
    root.join(file)
}

#[test]
fn a_script_below_node_modules_is_its_package_at_its_exact_version() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("node_modules/@scope/pkg");
    let json = r#"{"name":"@scope/pkg","version":"1.2.3","bin":{"pkg":"dist/index.js"}}"#;
    let script = package(&root, json, "dist/index.js");
    let expected = ("@scope/pkg".to_owned(), some("1.2.3"), None, "a".to_owned());
    assert_eq!(npm(&format!("node {} a", script.display())), expected);
    // As npx itself starts it: through the link in .bin, with the shebang resolved by the kernel.
    let bin = dir.path().join("node_modules/.bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink("../@scope/pkg/dist/index.js", bin.join("pkg")).unwrap();
    assert_eq!(npm(&format!("node {}/pkg a", bin.display())), expected);
    assert_eq!(npm(&format!("{}/pkg a", bin.display())), expected);
    std::fs::write(root.join("package.json"), json.replace("{\"pkg\":", "{\"other\":\"x.js\",\"pkg\":")).unwrap();
    assert_eq!(npm(&format!("node {} a", script.display())).2, some("pkg"));
    std::fs::write(root.join("package.json"), json.replace("dist/index.js", "other.js")).unwrap();
    assert!(read(&format!("node {} a", script.display())).is_err());
}

#[test]
fn programs_of_this_host_are_their_directory_or_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("work/server");
    let script = package(&root, r#"{"name":"s","version":"0.1.0"}"#, "build/index.js");
    let launch = read(&format!("node {} --x", script.display())).unwrap();
    assert_eq!(
        launch.source,
        Source::Local { path: root.clone(), run: vec!["node".into(), "{src}/build/index.js".into()] }
    );
    assert_eq!(launch.args, ["--x"]);

    let lone = dir.path().join("work/lone.py");
    std::fs::write(&lone, "").unwrap();
    let launch = read_in(&["python3", "lone.py", "a"], &[], lone.parent().unwrap()).unwrap();
    assert_eq!(launch.source, Source::Local { path: lone, run: vec!["python3".into(), "{src}".into()] });

    std::fs::write(root.join("pyproject.toml"), "").unwrap();
    std::fs::write(root.join("server.py"), "").unwrap();
    let directory = Source::Local { path: root.clone(), run: vec!["python3".into(), "{src}/server.py".into()] };
    for command in
        ["python3 server.py", "uv run server.py", "uv run --directory . server.py", "uv --directory . run server.py"]
    {
        let launch = read_in(&command.split(' ').collect::<Vec<_>>(), &[], &root).unwrap();
        assert_eq!(launch.source.clone(), directory, "{command}");
    }

    let binary = root.join("bin");
    std::fs::write(&binary, b"\x7fELF\0\0").unwrap();
    let launch = read(&format!("{} a", binary.display())).unwrap();
    assert_eq!(launch.source, Source::Local { path: binary, run: vec!["{src}".into()] });
}

#[test]
fn a_home_directory_is_never_taken_for_a_project() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home/ann");
    let script = package(&home, r#"{"name":"s","version":"0.1.0"}"#, "x.js");
    std::fs::create_dir(home.join(".ssh")).unwrap();
    let launch = read(&format!("node {}", script.display())).unwrap();
    assert_eq!(launch.source, Source::Local { path: script, run: vec!["node".into(), "{src}".into()] });
}

#[test]
fn docker_run_is_its_image_with_the_environment_that_it_passes_on() {
    let command =
        "docker run -i --rm -e TOKEN -e A=b --env C=d --network=host --name x -v /srv/data:/data:ro mcp/time:1 --utc";
    let env = [("TOKEN", "s3cret"), ("DOCKER_HOST", "x")];
    let launch = read_in(&command.split(' ').collect::<Vec<_>>(), &env, Path::new("/")).unwrap();
    assert_eq!(launch.source, Source::Image { image: "mcp/time:1".into(), run: vec![] });
    assert_eq!(launch.args, ["--utc"]);
    let env: Vec<_> = launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=b", "C=d", "TOKEN=s3cret"]);
    assert_eq!(launch.mounts, [Mount { host: "/srv/data".into(), container: "/data".into(), writable: false }]);
    assert_eq!(
        read("docker run -it --entrypoint /x img a").unwrap().source,
        Source::Image { image: "img".into(), run: vec!["/x".into()] }
    );
}

#[test]
fn a_mount_that_opens_the_host_is_refused() {
    for mount in ["/:/host", "/var/run/docker.sock:/s", "/etc:/e", "/srv/../etc:/e", "rel:/x", "/proc/1:/x"] {
        assert!(read(&format!("docker run -v {mount} img")).is_err(), "{mount}");
    }
}

#[test]
fn a_shell_with_one_simple_command_is_that_command() {
    let launch = read_in(&["/bin/sh", "-c", "A='x y' exec npx -y mcp-x 'a b'"], &[("B", "c")], Path::new("/")).unwrap();
    assert_eq!(launch.source, Source::Npm { package: "mcp-x".into(), version: None, bin: None });
    assert_eq!(launch.args, ["a b"]);
    assert_eq!(launch.env.into_iter().collect::<Vec<_>>(), [("A".into(), "x y".into()), ("B".into(), "c".into())]);
    for text in ["cd /x && npx y", "npx $PKG", "npx a | tee log", "", "eval x"] {
        assert!(read_in(&["sh", "-c", text], &[], Path::new("/nonexistent")).is_err(), "{text}");
    }
}

#[test]
fn the_hosts_own_environment_does_not_go_into_the_cage() {
    let env = [("PATH", "/x"), ("HOME", "/root"), ("LD_PRELOAD", "/e.so"), ("API_KEY", "k")];
    let launch = read_in(&["npx", "x"], &env, Path::new("/")).unwrap();
    assert_eq!(launch.env.keys().collect::<Vec<_>>(), ["API_KEY"]);
}

#[test]
fn what_cannot_be_told_is_a_clear_error() {
    for command in [
        "npx",
        "npx -y",
        "npx -p a -p b c",
        "npx github:evil/x",
        "npx ./x",
        "npx https://x/y.tgz",
        "npx --registry http://x y",
        "npx tsx server.ts",
        "npm run start",
        "npm start",
        "uvx",
        "uvx git+https://x/y",
        "uvx --from git+https://x/y z",
        "uvx --index-url http://x y",
        "uvx --with git+https://x/y b",
        "uvx --with ./a b",
        "uvx --with --index-url=http://x b",
        "uv run --with a x.py",
        "python3 -c x",
        "python3",
        "node -e x",
        "node",
        "sudo npx x",
        "timeout 5 npx x",
        "deno run npm:x",
        "docker ps",
        "docker run",
        "docker run -i",
        "docker -H tcp://x run y",
        "env",
        "sh",
        "docker exec -i c x",
        "/nonexistent/server",
        "no-such-program-anywhere",
        "python3 -m pip",
        "uv pip install x",
        "npx -- -x",
    ] {
        let error = read(command).expect_err(command).to_string();
        assert!(error.starts_with("cannot "), "{command}: {error}");
        assert!(error.contains("; "), "{command} names no next step: {error}");
    }
    assert_eq!(from_argv(&[], &BTreeMap::new(), Path::new("/")), Err(LaunchError::Empty));
}

#[test]
fn a_program_that_starts_itself_ends_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("loop");
    std::fs::write(&path, format!("#!{}\n", path.display())).unwrap();
    assert!(read(&path.display().to_string()).unwrap_err().to_string().contains("again and again"));
    let nested = std::iter::repeat_n("env", 50).chain(["npx", "x"]).collect::<Vec<_>>().join(" ");
    assert!(read(&nested).is_err());
}

#[test]
fn suggested_names_are_short_and_telling() {
    for (command, name) in [
        ("npx -y @modelcontextprotocol/server-everything", "everything"),
        ("npx -y @modelcontextprotocol/server-sequential-thinking", "sequential-thinking"),
        ("npx @playwright/mcp@latest", "playwright"),
        ("npx @upstash/context7-mcp", "context7"),
        ("uvx mcp-server-time", "time"),
        ("uvx mcp_server_git", "git"),
        ("uvx mcp", "server"),
        ("docker run -i ghcr.io/github/github-mcp-server:1.0", "github"),
        ("docker run -i mcp/time", "time"),
    ] {
        assert_eq!(suggest_name(&read(command).unwrap()), name, "{command}");
    }
}

/// Words that lead deep into the readers.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "npx",
            "-y",
            "-p",
            "--package",
            "--package=",
            "--",
            "-",
            "node",
            "/usr/bin/npx",
            "env",
            "-S",
            "A=b",
            "-u",
            "uvx",
            "uv",
            "run",
            "tool",
            "--from",
            "--with",
            "--directory",
            "/tmp",
            "python3",
            "-m",
            "-c",
            "-um",
            "mcp_x",
            "docker",
            "-i",
            "-e",
            "-v",
            "/a:/b",
            "--mount",
            "type=bind,src=/a,dst=/b",
            "img",
            "sh",
            "npx -y x",
            "bun",
            "x",
            "npm",
            "exec",
            "dlx",
            "pnpm",
            "pipx",
            "--spec",
            "é=ü",
            "@s/x@1",
            "@",
            "@/",
            "-é",
            "--é",
            "{src}",
            ".",
            "..",
            "/",
            "/dev/null",
            "/proc/self/fd/0",
            "",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
        ".{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_argv_is_a_definition_or_an_error(argv in prop::collection::vec(word(), 0..8)) {
        if let Ok(launch) = from_argv(&argv, &BTreeMap::new(), Path::new("/nonexistent")) {
            prop_assert_eq!(&launch.configured, &argv);
            prop_assert!(super::super::valid_name(&suggest_name(&launch)));
            // What is shown reads back as the same thing.
            let again = from_argv(&launch.configured, &BTreeMap::new(), Path::new("/nonexistent"));
            prop_assert_eq!(again.as_ref(), Ok(&launch));
            match &launch.source {
                Source::Npm { package, version, .. } => {
                    prop_assert!(!package.starts_with('-') && !package.contains(' '));
                    prop_assert!(version.as_deref().is_none_or(|version| !version.starts_with('-') && !version.contains([' ', '/', ':'])));
                }
                Source::Pypi { package, version, with, .. } => {
                    prop_assert!(with.iter().all(|spec| !spec.starts_with('-') && !spec.contains(['/', ':', '@'])));
                    prop_assert!(!package.starts_with('-') && !package.contains([' ', '/', ':']));
                    prop_assert!(version.as_deref().is_none_or(|version| !version.starts_with('-') && !version.contains(['/', ':', '@'])));
                }
                _ => {}
            }
        }
    }
}
