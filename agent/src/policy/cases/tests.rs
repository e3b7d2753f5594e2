use super::*;

fn engine(text: &str) -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.cedar"), text).unwrap();
    let engine = Engine::load(dir.path()).unwrap_or_else(|e| panic!("{e}"));
    (dir, engine)
}

const POLICIES: &str = r#"
    @id("reads") permit (principal, action, resource) when { resource.words.contains("read") };
    @id("with-a-human") permit (principal, action, resource) when { context.approval == "human" };
    @id("typed") forbid (principal, action, resource == Tool::"fs:read_file")
      when { context.input has path && context.input.path like "/etc/*" };
"#;

#[test]
fn a_case_passes_when_the_decision_and_the_policy_are_those_it_names() {
    let (_dir, engine) = engine(POLICIES);
    let text = r#"
        [[tool]]
        server = "fs"
        name = "read_file"
        input_schema = '{"type":"object","properties":{"path":{"type":"string"}}}'
        [[case]]
        name = "reads"
        server = "fs"
        tool = "read_file"
        arguments = { path = "/home/u/x" }
        expect = "permit"
        policy = "reads"
        [[case]]
        name = "climbs"
        server = "fs"
        tool = "read_file"
        arguments_json = '{"path":"/home/../etc/shadow"}'
        expect = "deny"
        policy = "typed"
        [[case]]
        name = "asks"
        server = "fs"
        tool = "write_file"
        expect = "ask"
        [[case]]
        name = "wrong policy"
        server = "fs"
        tool = "read_file"
        expect = "permit"
        policy = "with-a-human"
        [[case]]
        name = "wrong decision"
        server = "fs"
        tool = "write_file"
        expect = "permit"
    "#;
    let outcomes = run_file(&engine, Path::new("x.test.toml"), text).unwrap_or_else(|e| panic!("{e}"));
    let passed: Vec<bool> = outcomes.iter().map(|outcome| outcome.passed).collect();
    assert_eq!(passed, [true, true, true, false, false], "{outcomes:#?}");
}

#[test]
fn a_bad_file_is_told_with_its_place() {
    let (_dir, engine) = engine(POLICIES);
    let fault = |text: &str| run_file(&engine, Path::new("x.test.toml"), text).unwrap_err().to_string();
    assert!(fault("[[case]]\nname = \"a\"\nnmae = 1\n").starts_with("x.test.toml:3:1: "));
    assert!(fault("[[case]]\nname=\"a\"\nserver=\"a:b\"\ntool=\"t\"\nexpect=\"deny\"").contains("no server's name"));
    assert!(
        fault("[[case]]\nname=\"a\"\nserver=\"s\"\ntool=\"t\"\nexpect=\"deny\"\nvouch=\"great\"").contains("its agent")
    );
    let misfit = "[[tool]]\nserver=\"fs\"\nname=\"read_file\"\ninput_schema='{}'\n";
    assert!(fault(misfit).contains("p.cedar:5:"), "{}", fault(misfit));
}

/// What is shipped must be useful as it is.
#[test]
fn the_starter_set_says_what_its_cases_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/policy.d");
    let outcomes = run(&dir, &dir).unwrap_or_else(|e| panic!("{e}"));
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(outcomes.len() >= 40, "{}", outcomes.len());
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_file_of_cases_or_a_fault_with_a_place(text in "(\\[\\[case\\]\\]\n|name = \"a\"\n|server = |tool = |\"s\"\n|expect = \"deny\"\n|\\PC{0,6}){0,12}") {
        if let Err(CaseError::Syntax { line, column, .. }) = parse(Path::new("c"), &text) {
            proptest::prop_assert!(line >= 1 && column >= 1);
        }
    }
}
