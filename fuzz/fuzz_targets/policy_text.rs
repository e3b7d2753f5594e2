//! Any text is a set of policies, or faults with their places; what loads loads again, and with one more.

use lazaret::policy::try_text;

fuzz_target!(|text: &str| match try_text(text) {
    Ok(count) => {
        assert_eq!(try_text(&format!("{text}\nforbid (principal, action, resource);\n")), Ok(count + 1));
    }
    Err(faults) => {
        let lines = text.split('\n').count();
        assert!(!faults.is_empty());
        assert!(faults.iter().all(|fault| fault.line >= 1 && fault.line <= lines && fault.column >= 1), "{faults:?}");
    }
});
