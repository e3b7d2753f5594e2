//! Cages and builds on a real Docker. Without one, or without the base image, these skip and say so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::{ContainerConfig, ContainerCreateBody, ContainerInspectResponse, HealthConfig};
use bollard::query_parameters as query;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::admission::{LaunchDefinition, Source};

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a test on an instance of its own, and leaves no container and no image behind.
pub(super) async fn on_docker<F, Fut>(test: &str, config: SandboxConfig, body: F)
where
    F: FnOnce(Arc<Sandbox>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let files = tempfile::tempdir().unwrap();
    let instance = format!("test-{}", cage::random_suffix());
    let sandbox = Arc::new(Sandbox::new(&config, instance).keeping_files_in(files.path()));
    let absent = match sandbox.engine().await {
        Ok(engine) => engine
            .docker
            .inspect_image(&config.base_image)
            .await
            .err()
            .map(|e| format!("the base image {}: {e}", config.base_image)),
        Err(e) => Some(e.to_string()),
    };
    if let Some(reason) = absent {
        return skip(test, &reason);
    }
    let result = tokio::spawn(body(sandbox.clone())).await;
    let swept = sandbox.sweep().await.unwrap();
    let engine = sandbox.engine().await.unwrap();
    let ours = std::collections::HashMap::from([("label", vec![format!("{LABEL_INSTANCE}={}", sandbox.instance)])]);
    let options = query::ListImagesOptionsBuilder::new().filters(&ours).build();
    for image in engine.docker.list_images(Some(options)).await.unwrap() {
        sandbox.remove_image(&image.id).await.unwrap();
    }
    if let Err(panic) = result {
        std::panic::resume_unwind(panic.into_panic());
    }
    assert_eq!(swept, 0, "the test left containers behind");
}

fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    if let Some(file) = std::env::var_os("LAZARET_SKIP_FILE") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        writeln!(file, "{test}\t{}", reason.replace('\n', " ")).unwrap();
    }
}

fn local(dir: &std::path::Path, run: &[&str]) -> LaunchDefinition {
    LaunchDefinition {
        source: Source::Local { path: dir.into(), run: run.iter().map(|arg| (*arg).to_owned()).collect() },
        args: Vec::new(),
        env: BTreeMap::new(),
        mounts: Vec::new(),
        egress: Vec::new(),
        secrets: BTreeSet::new(),
        isolation: Default::default(),
        configured: Vec::new(),
    }
}

/// A server whose whole code is `python`, built from a file of this host.
async fn python(sandbox: &Sandbox, code: &str) -> CageSpec {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.py");
    std::fs::write(&file, code).unwrap();
    let built = sandbox.build(&local(&file, &["python3", "-u", "{src}"]), "a-server", &|_| {}).await.unwrap();
    CageSpec {
        server: "a-server".into(),
        image_id: built.image_id,
        argv: built.argv,
        env: BTreeMap::new(),
        secrets: BTreeSet::new(),
        mounts: Vec::new(),
        egress: Vec::new(),
        purpose: Purpose::Review,
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {} s", DEADLINE.as_secs()))
}

async fn output(cage: &mut Cage) -> String {
    let mut text = String::new();
    soon("output", cage.stdout.read_to_string(&mut text)).await.unwrap();
    text
}

async fn ended(cage: &mut Cage) -> CageExit {
    soon("exit", cage.exit.wait_for(Option::is_some)).await.unwrap().unwrap()
}

async fn inspect(sandbox: &Sandbox, id: &str) -> Option<ContainerInspectResponse> {
    sandbox.engine().await.unwrap().docker.inspect_container(id, None).await.ok()
}

const PROBE: &str = r##"
import json, os, socket
def refused(f):
    try: f()
    except OSError as e: return e.strerror or str(e)
    return None
def write(path):
    with open(path, "w") as f: f.write("x")
def run():
    with open("/tmp/x.sh", "w") as f: f.write("#!/bin/sh\n")
    os.chmod("/tmp/x.sh", 0o755)
    os.execv("/tmp/x.sh", ["/tmp/x.sh"])
status = dict(l.split(":\t") for l in open("/proc/self/status").read().splitlines() if ":\t" in l)
print(json.dumps({
    "ids": [os.getuid(), os.getgid()], "groups": sorted({os.getgid(), *os.getgroups()}),
    "status": {k: status[k] for k in ["CapEff", "CapBnd", "NoNewPrivs", "Seccomp"]},
    "root": refused(lambda: write("/x")), "app": refused(lambda: write("/app/x")), "etc": refused(lambda: write("/etc/x")),
    "tmp": refused(lambda: write("/tmp/x")), "exec": refused(run),
    "network": refused(lambda: socket.create_connection(("198.51.100.1", 80), 5)),
    "interfaces": sorted(i for _, i in socket.if_nameindex()),
    "first": open("/proc/1/comm").read().strip(),
    "home": os.environ["HOME"], "env": sorted(os.environ), "build": os.path.exists("/app/.build"),
    "size": os.statvfs("/tmp").f_frsize * os.statvfs("/tmp").f_blocks,
}))
"##;

#[tokio::test]
async fn from_inside_the_cage_there_is_no_way_out() {
    on_docker("from_inside_the_cage_there_is_no_way_out", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let mut spec = python(&sandbox, PROBE).await;
        spec.env.insert("GIVEN".into(), "value".into());
        let mut cage = sandbox.start(&spec).await.unwrap();
        let text = output(&mut cage).await;
        let seen: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {:?}", cage.stderr.tail(20)));
        assert_eq!((&seen["ids"], &seen["groups"]), (&json!([65534, 65534]), &json!([65534])));
        let none = "0000000000000000";
        assert_eq!(seen["status"], json!({"CapEff": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": "2"}));
        for place in ["root", "app", "etc"] {
            assert_eq!(seen[place], "Read-only file system", "{place}");
        }
        assert_eq!(seen["tmp"], Value::Null);
        assert_eq!(seen["exec"], "Permission denied");
        assert_eq!(seen["network"], "Network is unreachable");
        assert!(!seen["interfaces"].as_array().unwrap().iter().any(|name| name.as_str().unwrap().starts_with("eth")));
        assert_eq!(seen["home"], "/tmp");
        assert_eq!(seen["env"], json!(["GIVEN", "HOME", "HOSTNAME", "LANG", "PATH"]));
        assert_eq!(seen["build"], false);
        assert_eq!(seen["size"], SandboxConfig::default().tmpfs_bytes);
        assert_eq!(ended(&mut cage).await, CageExit { code: Some(0), out_of_memory: false });
    })
    .await;
}

#[tokio::test]
async fn docker_shows_every_hardened_setting() {
    on_docker("docker_shows_every_hardened_setting", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let spec = python(&sandbox, "import sys; sys.stdin.read()").await;
        let cage = sandbox.start(&spec).await.unwrap();
        let made = inspect(&sandbox, &cage.container_id).await.unwrap();
        let (config, host) = (made.config.unwrap(), made.host_config.unwrap());
        assert_eq!(config.user.as_deref(), Some("65534:65534"));
        assert_eq!(config.labels.as_ref().unwrap()[LABEL_SERVER], "a-server");
        assert_eq!(config.labels.unwrap()[LABEL_PURPOSE], "review");
        assert_eq!(made.image.unwrap(), spec.image_id);
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges".to_owned(), seccomp::option()]);
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.ipc_mode.as_deref(), Some("private"));
        assert_eq!(
            (host.readonly_rootfs, host.privileged, host.init, host.auto_remove),
            (Some(true), Some(false), Some(true), Some(false))
        );
        assert_eq!((host.memory, host.memory_swap), (Some(512 << 20), Some(512 << 20)));
        assert_eq!((host.pids_limit, host.nano_cpus), (Some(128), Some(1_000_000_000)));
        assert_eq!(host.tmpfs.unwrap()["/tmp"], format!("rw,noexec,nosuid,nodev,size={},mode=1777", 64 << 20));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        assert!(host.cgroup_parent.unwrap().contains(sandbox.instance()));
        assert!(host.binds.is_none_or(|binds| binds.is_empty()));
        sandbox.stop(&cage.container_id).await.unwrap();
        assert!(inspect(&sandbox, &cage.container_id).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn what_an_image_says_of_itself_loosens_nothing() {
    on_docker(
        "what_an_image_says_of_itself_loosens_nothing",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let spec = python(&sandbox, "import sys; sys.stdin.read()").await;
            let engine = sandbox.engine().await.unwrap();
            let body = ContainerCreateBody { image: Some(spec.image_id.clone()), ..ContainerCreateBody::default() };
            let id = engine.docker.create_container(None, body).await.unwrap().id;
            let run = r#"--privileged --network host -v /:/host"#;
            let said = ContainerConfig {
                user: Some("root".into()),
                entrypoint: Some(vec!["/bin/sh".into(), "-c".into(), "touch /started".into()]),
                cmd: Some(vec!["ignored".into()]),
                env: Some(vec!["LD_PRELOAD=/app/evil.so".into()]),
                working_dir: Some("/root".into()),
                volumes: Some(vec!["/data".into()]),
                healthcheck: Some(HealthConfig {
                    test: Some(vec!["CMD".into(), "touch".into(), "/x".into()]),
                    ..HealthConfig::default()
                }),
                labels: Some(
                    [
                        (LABEL_INSTANCE, "another"),
                        (LABEL_SERVER, "another"),
                        ("run", run),
                        ("io.docker.server.metadata", run),
                    ]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                ),
                ..ContainerConfig::default()
            };
            let options = query::CommitContainerOptionsBuilder::new().container(&id).build();
            let image_id = docker::image_id(engine.docker.commit_container(options, said).await.unwrap().id);
            docker::remove(&engine.docker, &id).await.unwrap();

            let cage = sandbox.start(&CageSpec { image_id: image_id.clone(), ..spec.clone() }).await.unwrap();
            let made = inspect(&sandbox, &cage.container_id).await.unwrap();
            let (config, host) = (made.config.unwrap(), made.host_config.unwrap());
            assert_eq!(made.image.unwrap(), image_id);
            assert_eq!(config.user.as_deref(), Some("65534:65534"));
            assert_eq!(
                (config.entrypoint.unwrap(), config.cmd.unwrap()),
                (vec![spec.argv[0].clone()], spec.argv[1..].to_vec())
            );
            assert_eq!(config.working_dir.as_deref(), Some("/tmp"));
            assert_eq!(config.healthcheck.unwrap().test.unwrap(), ["NONE"]);
            assert_eq!(config.labels.unwrap()[LABEL_SERVER], "a-server");
            assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(true)));
            assert_eq!(host.network_mode.as_deref(), Some("none"));
            assert!(
                host.binds.is_none_or(|binds| binds.is_empty()) && host.mounts.is_none_or(|mounts| mounts.is_empty())
            );
            assert_eq!(host.tmpfs.unwrap()["/data"], format!("rw,noexec,nosuid,nodev,size={},mode=1777", 64 << 20));
            sandbox.stop(&cage.container_id).await.unwrap();
            sandbox.remove_image(&image_id).await.unwrap();
        },
    )
    .await;
}

struct Witness(Mutex<Vec<(String, jiff::Timestamp)>>);

impl LaunchGrant for Witness {
    fn grant(&self, container_id: &str) {
        self.0.lock().unwrap().push((container_id.to_owned(), jiff::Timestamp::now()));
    }
}

#[tokio::test]
async fn the_grant_comes_before_the_first_process_and_input_that_ends_ends_the_server() {
    let test = "the_grant_comes_before_the_first_process_and_input_that_ends_ends_the_server";
    on_docker(test, SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let witness = Arc::new(Witness(Mutex::default()));
        sandbox.set_launch_grant(witness.clone());
        let spec = python(&sandbox, "import sys; print(sys.stdin.read().upper(), end=''); sys.exit(7)").await;
        let mut cage = sandbox.start(&spec).await.unwrap();
        let state = inspect(&sandbox, &cage.container_id).await.unwrap().state.unwrap();
        let granted = witness.0.lock().unwrap().clone();
        assert_eq!(granted.len(), 1);
        assert_eq!(granted[0].0, cage.container_id);
        assert!(granted[0].1 < state.started_at.unwrap().parse().unwrap());
        cage.stdin.write_all(b"some input").await.unwrap();
        cage.stdin = Box::new(tokio::io::sink());
        assert_eq!(output(&mut cage).await, "SOME INPUT");
        assert_eq!(ended(&mut cage).await.code, Some(7));
        assert!(inspect(&sandbox, &cage.container_id).await.is_none());
        sandbox.stop(&cage.container_id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn both_outputs_arrive_whole_and_apart() {
    on_docker("both_outputs_arrive_whole_and_apart", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let code = "import os\nfor i in range(2000):\n os.write(1, b'%06d' % i + b'o' * 1000 + b'\\n')\n os.write(2, b'e%d\\n' % i)\n";
        let mut cage = sandbox.start(&python(&sandbox, code).await).await.unwrap();
        let text = output(&mut cage).await;
        let expected: String = (0..2000).map(|i| format!("{i:06}{}\n", "o".repeat(1000))).collect();
        assert!(text == expected, "{} bytes, not {}", text.len(), expected.len());
        assert_eq!(cage.stderr.tail(2), ["e1998", "e1999"]);
        ended(&mut cage).await;
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_leaves_no_container() {
    on_docker("a_killed_server_leaves_no_container", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let mut cage = sandbox.start(&python(&sandbox, "import time; time.sleep(600)").await).await.unwrap();
        let options = query::KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        sandbox.engine().await.unwrap().docker.kill_container(&cage.container_id, Some(options)).await.unwrap();
        assert_eq!(output(&mut cage).await, "");
        assert_eq!(ended(&mut cage).await, CageExit { code: Some(137), out_of_memory: false });
        assert!(inspect(&sandbox, &cage.container_id).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn letting_go_of_the_output_removes_the_container() {
    on_docker(
        "letting_go_of_the_output_removes_the_container",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let cage = sandbox.start(&python(&sandbox, "import time; time.sleep(600)").await).await.unwrap();
            let Cage { container_id, stdout, mut exit, .. } = cage;
            drop(stdout);
            soon("exit", exit.wait_for(Option::is_some)).await.unwrap();
            assert!(inspect(&sandbox, &container_id).await.is_none());
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_that_takes_too_much_memory_is_killed_and_it_is_said() {
    let config = SandboxConfig { memory_bytes: 64 << 20, ..SandboxConfig::default() };
    on_docker("a_server_that_takes_too_much_memory_is_killed_and_it_is_said", config, async |sandbox: Arc<Sandbox>| {
        let mut cage = sandbox.start(&python(&sandbox, "x = b'x' * (256 << 20); print(len(x))").await).await.unwrap();
        assert_eq!(output(&mut cage).await, "");
        assert_eq!(ended(&mut cage).await, CageExit { code: Some(137), out_of_memory: true });
    })
    .await;
}

#[tokio::test]
async fn a_command_that_is_not_there_is_an_error_and_leaves_nothing() {
    on_docker(
        "a_command_that_is_not_there_is_an_error_and_leaves_nothing",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let mut spec = python(&sandbox, "").await;
            spec.argv = vec!["/no/such/program".into()];
            // Init is there even where the server is not, so that Docker may only notice by the exit.
            match sandbox.start(&spec).await {
                Err(SandboxError::Start { cause, .. }) => assert!(cause.contains("/no/such/program"), "{cause}"),
                Err(other) => panic!("{other}"),
                Ok(mut cage) => {
                    assert_eq!(output(&mut cage).await, "");
                    assert_eq!(ended(&mut cage).await.code, Some(127));
                    assert!(cage.stderr.tail(3).join(" ").contains("/no/such/program"));
                }
            }
            spec.image_id = format!("sha256:{}", "0".repeat(64));
            assert!(matches!(sandbox.start(&spec).await, Err(SandboxError::NoImage { .. })));
            spec.image_id = sandbox.config.base_image.clone();
            assert!(sandbox.start(&spec).await.err().unwrap().to_string().contains("is not an image id"));
        },
    )
    .await;
}

#[tokio::test]
async fn a_sweep_removes_this_instances_containers_and_no_others() {
    on_docker(
        "a_sweep_removes_this_instances_containers_and_no_others",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let engine = sandbox.engine().await.unwrap();
            let make = async |labels: std::collections::HashMap<String, String>| {
                let image = Some(sandbox.config.base_image.clone());
                let body = ContainerCreateBody {
                    image,
                    labels: Some(labels),
                    cmd: Some(vec!["true".into()]),
                    ..ContainerCreateBody::default()
                };
                engine.docker.create_container(None, body).await.unwrap().id
            };
            let mine = [
                make(cage::labels(&sandbox.instance, "a", "serve")).await,
                make(cage::labels(&sandbox.instance, "b", "build")).await,
            ];
            let others = [
                make(cage::labels("another", "a", "serve")).await,
                make(cage::labels(&sandbox.instance, "a", "image")).await,
            ];
            assert_eq!(sandbox.sweep().await.unwrap(), mine.len());
            for id in &others {
                assert!(inspect(&sandbox, id).await.is_some());
                docker::remove(&engine.docker, id).await.unwrap();
            }
            assert_eq!(sandbox.sweep().await.unwrap(), 0);
        },
    )
    .await;
}

#[tokio::test]
async fn a_mount_is_read_only_unless_it_is_said() {
    on_docker("a_mount_is_read_only_unless_it_is_said", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(dir.path().join("given"), "from the host").unwrap();
        let code = "print(open('/data/given').read())\nopen('/data/made', 'w').write('from the cage')";
        let mut spec = python(&sandbox, code).await;
        for writable in [false, true] {
            let host = dir.path().canonicalize().unwrap();
            spec.mounts = vec![Mount { host, container: "/data".into(), writable }];
            let mut cage = sandbox.start(&spec).await.unwrap();
            assert_eq!(output(&mut cage).await, "from the host\n", "{:?}", cage.stderr.tail(5));
            assert_eq!(ended(&mut cage).await.code, Some(i64::from(!writable)));
            assert_eq!(dir.path().join("made").exists(), writable);
        }
        spec.mounts[0].host = "/var/run".into();
        assert!(sandbox.start(&spec).await.err().unwrap().to_string().contains("the mount of /var/run on /data"));
    })
    .await;
}

#[tokio::test]
async fn install_scripts_do_not_run_even_in_the_builder() {
    on_docker("install_scripts_do_not_run_even_in_the_builder", SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("dep")).unwrap();
        let hook = r#""scripts":{"preinstall":"touch /app/src/owned","postinstall":"touch /app/src/owned"}"#;
        write("dep/package.json", &format!(r#"{{"name":"dep","version":"1.0.0",{hook}}}"#));
        write("dep/index.js", "module.exports = 'installed'");
        write("package.json", &format!(r#"{{"name":"x","version":"1.0.0","dependencies":{{"dep":"file:./dep"}},{hook}}}"#));
        write("main.js", "console.log(require('dep'), require('fs').existsSync('/app/src/owned'), require('fs').existsSync('/app/.build'))");
        let built = sandbox.build(&local(dir.path(), &["node", "{src}/main.js"]), "x", &|_| {}).await.unwrap();
        assert!(built.lock["packages"]["node_modules/dep"].is_object(), "{}", built.lock);
        let spec = CageSpec {
            server: "x".into(),
            image_id: built.image_id,
            argv: built.argv,
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            mounts: Vec::new(),
            egress: Vec::new(),
            purpose: Purpose::Serve,
        };
        let mut cage = sandbox.start(&spec).await.unwrap();
        assert_eq!(output(&mut cage).await, "installed false false\n");
        ended(&mut cage).await;
    })
    .await;
}

/// A socket that leads to the real Docker until the task is aborted, as if Docker had stopped.
fn door_to_docker(socket: &std::path::Path) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut far) = tokio::net::UnixStream::connect(SandboxConfig::default().docker).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    })
}

#[tokio::test]
async fn an_outage_of_docker_is_said_and_leaves_no_container() {
    on_docker(
        "an_outage_of_docker_is_said_and_leaves_no_container",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("docker.sock");
            let spec = python(&sandbox, "import time; time.sleep(600)").await;
            let config = SandboxConfig { docker: socket.clone(), ..SandboxConfig::default() };
            let through_door = Sandbox::new(&config, sandbox.instance.clone());
            let door = door_to_docker(&socket);
            let mut cage = through_door.start(&spec).await.unwrap();
            door.abort();
            let _ = door.await;
            // The server is lost: its output ends, and so does the wait for it.
            let _ = soon("end of output", cage.stdout.read_to_end(&mut Vec::new())).await;
            for error in [through_door.start(&spec).await.err().unwrap(), through_door.info().await.unwrap_err()] {
                assert!(matches!(error, SandboxError::Unreachable { .. }), "{error}");
            }
            assert!(inspect(&sandbox, &cage.container_id).await.is_some());
            std::fs::remove_file(&socket).unwrap();
            let door = door_to_docker(&socket);
            let docker = &sandbox.engine().await.unwrap().docker;
            let options = query::WaitContainerOptionsBuilder::new().condition("removed").build();
            let mut gone = Box::pin(docker.wait_container(&cage.container_id, Some(options)));
            let _ = soon("removal", futures_util::StreamExt::next(&mut gone)).await;
            assert!(inspect(&sandbox, &cage.container_id).await.is_none());
            door.abort();
        },
    )
    .await;
}

#[tokio::test]
async fn without_the_base_image_there_is_a_clear_error() {
    on_docker(
        "without_the_base_image_there_is_a_clear_error",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let config = SandboxConfig { base_image: "lazaret/absent:1".into(), ..SandboxConfig::default() };
            let without = Sandbox::new(&config, sandbox.instance.clone());
            let dir = tempfile::tempdir().unwrap();
            let error = without.build(&local(dir.path(), &["true"]), "a-server", &|_| {}).await.unwrap_err();
            assert!(matches!(error, SandboxError::NoBaseImage { .. }));
            assert!(
                error.to_string().contains("lazaret/absent:1") && error.to_string().contains("cargo xtask images"),
                "{error}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn without_docker_there_is_a_clear_error_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let dead = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let silent = dir.path().join("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    for (socket, expected) in [
        (dir.path().join("none"), "there is no such socket"),
        (file, "that is not a socket"),
        (dead, "Connection refused"),
        (silent, "no answer within 15 s"),
    ] {
        let config = SandboxConfig { docker: socket, ..SandboxConfig::default() };
        let error = soon("an error", Sandbox::new(&config, "x".into()).info()).await.unwrap_err();
        assert!(matches!(error, SandboxError::Unreachable { .. }));
        assert!(
            error.to_string().contains(expected) && error.to_string().contains("servers run only in Docker"),
            "{error}"
        );
    }
}
