//! Nothing hidden in a descriptor stays hidden: it is found, and what is shown of it shows it.

fuzz_target!(|text: &str| lazaret::admission::findings::fuzz(text));
