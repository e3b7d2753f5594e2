//! Digests that approvals belong to.
//!
//! Invariant: two different inputs never have the same encoding. Every part is preceded by its
//! length, lists by their count, and each kind of digest has a domain of its own, so that no text
//! in one part can pose as a border between two, and no digest of one kind as one of another.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::model::{LaunchDefinition, Review, Source};
use crate::proxy::json::Json;

/// Hashes parts one by one; see the module's invariant.
struct Pin(Sha256);

impl Pin {
    fn new(domain: &str) -> Self {
        let mut pin = Pin(Sha256::new());
        pin.text("lazaret-pin-v1").text(domain);
        pin
    }

    fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    fn text(&mut self, part: &str) -> &mut Self {
        self.bytes(part.as_bytes())
    }

    fn option(&mut self, part: Option<&str>) -> &mut Self {
        match part {
            Some(part) => self.text("some").text(part),
            None => self.text("none"),
        }
    }

    fn list<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a str>) -> &mut Self {
        self.0.update((parts.len() as u64).to_be_bytes());
        for part in parts {
            self.text(part);
        }
        self
    }

    /// A set: the order in which a server happens to list things is not a change.
    fn set(&mut self, parts: impl Iterator<Item = String>) -> &mut Self {
        let mut parts: Vec<String> = parts.collect();
        parts.sort_unstable();
        self.list(parts.iter().map(String::as_str))
    }

    fn finish(&self) -> String {
        format!("sha256:{}", hex::encode(self.0.clone().finalize()))
    }
}

/// Over the whole descriptor: name, title, description, schemas, annotations, icons, `_meta`
/// and whatever else the server sent.
pub fn tool_digest(descriptor: &Json) -> String {
    Pin::new("tool").text(&descriptor.canonical()).finish()
}

/// Over something else that a server offers under this name, as its approved listing has it.
pub fn offer_digest(server_pin: &str, name: &str, descriptor: &Json) -> String {
    Pin::new("offer").text(server_pin).text(name).text(&descriptor.canonical()).finish()
}

/// Over the arguments of one call; what a human's approval of that call is bound to.
pub fn arguments_digest(arguments: &Json) -> String {
    Pin::new("arguments").text(&arguments.canonical()).finish()
}

/// Over how a server is started, without its name: a denial holds under every name.
/// The values of the environment are no part of it (secrets rotate), their names are; so are the
/// values of what loads code.
pub fn launch_digest(launch: &LaunchDefinition) -> String {
    let mut pin = Pin::new("launch");
    match &launch.source {
        Source::Npm { package, version, bin } => {
            pin.text("npm").text(package).option(version.as_deref()).option(bin.as_deref())
        }
        Source::Pypi { package, version, script, module, with } => {
            pin.text(if with.is_empty() { "pypi" } else { "pypi-with" })
                .text(package)
                .option(version.as_deref())
                .option(script.as_deref())
                .option(module.as_deref());
            if !with.is_empty() {
                pin.list(with.iter().map(String::as_str));
            }
            &mut pin
        }
        Source::Local { path, run } => {
            pin.text("local").bytes(path.as_os_str().as_encoded_bytes()).list(run.iter().map(String::as_str))
        }
        Source::Image { image, run } => pin.text("image").text(image).list(run.iter().map(String::as_str)),
        Source::Remote(remote) => {
            pin.text("remote").text(remote.url().as_str());
            pin.text(if remote.private() { "private" } else { "public" });
            pin.text(if remote.plain_http() { "plain" } else { "tls" });
            pin.0.update((remote.headers().len() as u64).to_be_bytes());
            for header in remote.headers() {
                pin.text(&header.name).text(&header.prefix).text(&header.secret);
            }
            match remote.oauth() {
                None => pin.text("no oauth"),
                Some(oauth) => pin
                    .text("oauth")
                    .text(oauth.grant.as_str())
                    .option(oauth.client_id.as_deref())
                    .option(oauth.client_secret.as_deref())
                    .list(oauth.scopes.iter().map(String::as_str).collect::<Vec<_>>().into_iter())
                    .option(oauth.issuer.as_deref()),
            }
        }
    };
    pin.list(launch.args.iter().map(String::as_str));
    pin.list(launch.env.keys().map(String::as_str));
    // How many follow is told by the names.
    for (_, value) in launch.code_env() {
        pin.text(value);
    }
    pin.0.update((launch.mounts.len() as u64).to_be_bytes());
    for mount in &launch.mounts {
        pin.bytes(mount.host.as_os_str().as_encoded_bytes())
            .bytes(mount.container.as_os_str().as_encoded_bytes())
            .text(if mount.writable { "rw" } else { "ro" });
    }
    // Nothing at all where there is none, so that older pins stay what they were.
    if !launch.egress.is_empty() {
        pin.text("egress").0.update((launch.egress.len() as u64).to_be_bytes());
        for egress in &launch.egress {
            pin.text(egress.host()).bytes(&egress.port().to_be_bytes());
            pin.text(if egress.private() { "private" } else { "public" });
        }
    }
    if !launch.isolation.is_default() {
        pin.text("isolation").text(launch.isolation.as_str());
    }
    pin.finish()
}

/// Over where the code comes from, in whatever version and however it is started.
pub fn package_digest(launch: &LaunchDefinition) -> String {
    let mut pin = Pin::new("package");
    match &launch.source {
        Source::Npm { package, .. } => pin.text("npm").text(package),
        Source::Pypi { package, .. } => pin.text("pypi").text(package),
        Source::Local { path, .. } => pin.text("local").bytes(path.as_os_str().as_encoded_bytes()),
        Source::Image { image, .. } if image.starts_with("sha256:") => pin.text("image").text(image),
        Source::Image { image, .. } => {
            let name = image.split('@').next().unwrap_or(image);
            // A colon before the last slash belongs to the registry's port.
            let tag = name.rfind(':').filter(|at| *at > name.rfind('/').unwrap_or(0));
            pin.text("image").text(&name[..tag.unwrap_or(name.len())])
        }
        Source::Remote(remote) => pin.text("remote").text(&remote.origin()),
    };
    pin.finish()
}

/// Over the files that a review found, wherever they came from and however they are started; a remote server has none.
pub fn code_digest(review: &Review) -> Option<String> {
    let lock = &review.lock;
    let own = || Some(review.image_id.as_str()).filter(|id| lock["kind"] == "image" && !id.is_empty());
    let code = lock["built"].as_str().or_else(|| lock["tree"].as_str()).or_else(own)?;
    let mut pin = Pin::new("code");
    pin.text(code);
    Some(pin.finish())
}

/// What a review saw of a server, as far as the pin covers it.
pub struct Reviewed<'a> {
    pub launch: &'a LaunchDefinition,
    pub image_id: &'a str,
    /// The exact command inside of the cage.
    pub argv: &'a [String],
    pub package: &'a serde_json::Value,
    pub lock: &'a serde_json::Value,
    pub instructions: Option<&'a str>,
    pub prompts: &'a [Json],
    pub resource_templates: &'a [Json],
    pub tools: &'a [Json],
    /// What it has beside tools; `None` where its review did not ask.
    pub offers: Option<&'a [String]>,
}

/// The pin of a server: its content and the very image.
pub fn server_pin(reviewed: &Reviewed<'_>) -> String {
    Pin::new("server").text(reviewed.image_id).text(&content_digest(reviewed)).finish()
}

/// Everything but the image id, which differs between two builds of the same packages:
/// a denied server does not come back by being built again.
pub fn content_digest(reviewed: &Reviewed<'_>) -> String {
    let mut pin = Pin::new("content");
    pin.text(&launch_digest(reviewed.launch))
        .list(reviewed.argv.iter().map(String::as_str))
        .text(&Json::from_value(reviewed.package).canonical())
        .text(&Json::from_value(reviewed.lock).canonical())
        .option(reviewed.instructions)
        .set(reviewed.prompts.iter().map(Json::canonical))
        .set(reviewed.resource_templates.iter().map(Json::canonical))
        .set(reviewed.tools.iter().map(tool_digest));
    // Nothing at all where it is not known, so that older pins stay what they were.
    if let Some(offers) = reviewed.offers {
        pin.text("offers").set(offers.iter().cloned());
    }
    pin.finish()
}

/// Names that occur more than once among `tools`, or that are no strings: no pin can stand for those.
pub fn tool_names(tools: &[Json]) -> Result<Vec<String>, String> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        let Some(name) = tool.get("name").and_then(Json::as_str).filter(|name| !name.is_empty()) else {
            return Err(format!("tool number {} of its list has no name", i + 1));
        };
        if !seen.insert(name) {
            return Err(format!("it lists two tools with the name {name:?}"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text, 64).unwrap()
    }

    fn launch(package: &str, args: &[&str]) -> LaunchDefinition {
        LaunchDefinition {
            source: Source::Npm { package: package.into(), version: None, bin: None },
            args: args.iter().map(|a| (*a).into()).collect(),
            env: BTreeMap::new(),
            mounts: vec![],
            egress: vec![],
            secrets: BTreeSet::new(),
            isolation: Default::default(),
            configured: vec![],
        }
    }

    fn pin_of(tools: &[Json], prompts: &[Json], instructions: Option<&str>, image: &str) -> String {
        server_pin(&Reviewed {
            launch: &launch("p", &[]),
            image_id: image,
            argv: &[],
            package: &serde_json::Value::Null,
            lock: &serde_json::Value::Null,
            instructions,
            prompts,
            resource_templates: &[],
            tools,
            offers: None,
        })
    }

    const TOOL: &str = r#"{"name":"echo","title":"Echo","description":"Echoes","inputSchema":{"type":"object","properties":{"m":{"type":"string","maxLength":10}}},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"icons":[{"src":"a"}],"_meta":{"x":1.0}}"#;

    #[test]
    fn changing_any_member_of_a_tool_changes_its_digest() {
        let before = tool_digest(&json(TOOL));
        for (from, to) in [
            ("\"echo\"", "\"echo2\""),
            ("\"Echo\"", "\"Echo!\""),
            ("Echoes", "Echoes."),
            ("10", "11"),
            ("\"outputSchema\"", "\"outputschema\""),
            ("true", "false"),
            ("[{\"src\":\"a\"}]", "[]"),
            ("1.0", "1"),
        ] {
            let changed = TOOL.replacen(from, to, 1);
            assert_ne!(changed, TOOL, "{from}");
            assert_ne!(tool_digest(&json(&changed)), before, "{from} -> {to}");
        }
    }

    #[test]
    fn the_order_of_members_and_of_the_list_is_no_change() {
        assert_eq!(tool_digest(&json(r#"{"a":1,"name":"x"}"#)), tool_digest(&json(r#"{ "name": "\u0078", "a": 1 }"#)));
        let (a, b) = (json(r#"{"name":"a"}"#), json(r#"{"name":"b"}"#));
        assert_eq!(pin_of(&[a.clone(), b.clone()], &[], None, "i"), pin_of(&[b, a], &[], None, "i"));
    }

    #[test]
    fn a_list_of_tools_cannot_pose_as_a_list_of_prompts() {
        let a = json(r#"{"name":"a"}"#);
        assert_ne!(pin_of(std::slice::from_ref(&a), &[], None, "i"), pin_of(&[], std::slice::from_ref(&a), None, "i"));
        assert_ne!(pin_of(&[], &[], None, "i"), pin_of(&[], &[], Some(""), "i"));
        assert_ne!(pin_of(&[], &[], None, "i"), pin_of(&[], &[], None, "j"));
    }

    #[test]
    fn what_a_server_offers_beside_tools_is_pinned_and_reviews_that_did_not_ask_keep_their_pins() {
        let launch = launch("p", &[]);
        let nothing = serde_json::Value::Null;
        let pin = |offers: Option<&[&str]>| {
            let offers: Option<Vec<String>> = offers.map(|offers| offers.iter().map(|o| (*o).to_owned()).collect());
            server_pin(&Reviewed {
                launch: &launch,
                image_id: "i",
                argv: &[],
                package: &nothing,
                lock: &nothing,
                instructions: None,
                prompts: &[],
                resource_templates: &[],
                tools: &[],
                offers: offers.as_deref(),
            })
        };
        let all = [pin(None), pin(Some(&[])), pin(Some(&["prompts"])), pin(Some(&["resources"]))];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:#?}");
        assert_eq!(pin(Some(&["a", "b"])), pin(Some(&["b", "a"])), "a set has no order");
        // The digest of this definition before anybody asked.
        assert_eq!(pin(None), "sha256:d689dbf933f3da21fbdd6f0aa71f78a3e5a52a312e5d4fc32dea087c29ba1c8d");
    }

    #[test]
    fn secrets_are_not_pinned_but_their_names_are() {
        let mut one = launch("p", &[]);
        one.env.insert("TOKEN".into(), "a".into());
        let mut two = one.clone();
        two.env.insert("TOKEN".into(), "b".into());
        assert_eq!(launch_digest(&one), launch_digest(&two));
        two.env.insert("OTHER".into(), "b".into());
        assert_ne!(launch_digest(&one), launch_digest(&two));
    }

    #[test]
    fn what_loads_code_is_pinned_by_its_value() {
        for name in ["NODE_OPTIONS", "LD_PRELOAD", "LD_ANYTHING", "PYTHONPATH", "PATH", "GLIBC_TUNABLES"] {
            let with = |value: &str| {
                let mut launch = launch("p", &[]);
                launch.env.insert(name.into(), value.into());
                launch_digest(&launch)
            };
            assert_ne!(with("a"), with("b"), "{name}");
        }
    }

    #[test]
    fn who_shares_a_container_is_pinned_and_the_default_keeps_the_pins_of_before() {
        use crate::admission::Isolation;
        let with = |isolation| {
            let launch = LaunchDefinition { isolation, ..launch("p", &["a"]) };
            (launch_digest(&launch), serde_json::to_string(&launch).unwrap())
        };
        let (shared, stored) = with(Isolation::Shared);
        assert_eq!(shared, "sha256:094d76752b70da03bcdc3f1f7b55433384f3c1c2c53c7daa30f0553021d88341");
        assert!(!stored.contains("isolation"), "{stored}");
        assert_eq!(serde_json::from_str::<LaunchDefinition>(&stored).unwrap().isolation, Isolation::Shared);
        let (agent, stored) = with(Isolation::PerAgent);
        assert!(stored.contains(r#""isolation":"per-agent""#), "{stored}");
        let (session, _) = with(Isolation::PerSession);
        assert!(shared != agent && agent != session && shared != session);
    }

    #[test]
    fn egress_is_pinned_and_its_absence_keeps_the_pins_of_before() {
        use crate::admission::Egress;
        let digest = |egress: &[(&str, bool)], mounts: Vec<crate::admission::Mount>| {
            let egress = egress.iter().map(|(text, private)| Egress::parse(text, *private).unwrap()).collect();
            let launch = LaunchDefinition { egress, mounts, ..launch("p", &["a"]) };
            let stored: LaunchDefinition = serde_json::from_str(&serde_json::to_string(&launch).unwrap()).unwrap();
            assert_eq!(stored, launch);
            launch_digest(&launch)
        };
        // The digest of this definition before there was egress.
        assert_eq!(digest(&[], vec![]), "sha256:094d76752b70da03bcdc3f1f7b55433384f3c1c2c53c7daa30f0553021d88341");
        let mount = crate::admission::Mount { host: "/a".into(), container: "/b".into(), writable: false };
        let all = [
            digest(&[], vec![]),
            digest(&[("a.example:80", false)], vec![]),
            digest(&[("a.example:80", true)], vec![]),
            digest(&[("a.example:81", false)], vec![]),
            digest(&[("b.example:80", false)], vec![]),
            digest(&[("a.example:80", false), ("b.example:80", false)], vec![]),
            digest(&[], vec![mount.clone()]),
            digest(&[("a.example:80", false)], vec![mount]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:#?}");
    }

    #[test]
    fn further_requirements_are_pinned() {
        let with = |with: &[&str], args: &[&str]| {
            let mut launch = launch("p", args);
            launch.source = Source::Pypi {
                package: "p".into(),
                version: None,
                script: None,
                module: None,
                with: with.iter().map(|text| (*text).into()).collect(),
            };
            launch_digest(&launch)
        };
        assert_ne!(with(&[], &[]), with(&["mcp<2"], &[]));
        assert_ne!(with(&["mcp<2"], &[]), with(&["mcp<3"], &[]));
        assert_ne!(with(&["a"], &["b"]), with(&[], &["a", "b"]));
        assert_ne!(with(&["a"], &["b"]), with(&["a", "b"], &[]));
    }

    /// Everything that a pin is made of, each from few values, so that two of them meet often.
    #[derive(Debug, Clone, PartialEq)]
    struct Parts {
        texts: [String; 3],
        lists: [Vec<String>; 3],
        instructions: Option<String>,
        sets: [Vec<String>; 3],
    }

    impl Parts {
        fn pin(&self) -> String {
            let [package, image, lock] = &self.texts;
            let [args, argv, env] = &self.lists;
            let items = |set: &[String]| -> Vec<Json> {
                set.iter().map(|text| Json::object([("name", Json::string(text.as_str()))])).collect()
            };
            let [tools, prompts, templates] = self.sets.each_ref().map(|set| items(set));
            let mut launch = launch(package, &args.iter().map(String::as_str).collect::<Vec<_>>());
            launch.env = env.iter().map(|name| (name.clone(), "secret".to_owned())).collect();
            server_pin(&Reviewed {
                launch: &launch,
                image_id: image,
                argv,
                package: &serde_json::json!({ "version": package }),
                lock: &serde_json::json!({ "built": lock }),
                instructions: self.instructions.as_deref(),
                prompts: &prompts,
                resource_templates: &templates,
                tools: &tools,
                offers: None,
            })
        }

        /// What of it is told apart: names of the environment are a set, and so are listings.
        fn meant(mut self) -> Self {
            self.sets.iter_mut().for_each(|set| set.sort());
            self.lists[2].sort();
            self.lists[2].dedup();
            self
        }

        /// The n-th part is the other's.
        fn with(&self, n: usize, other: &Self) -> Self {
            let mut mixed = self.clone();
            match n {
                0..=2 => mixed.texts[n].clone_from(&other.texts[n]),
                3..=5 => mixed.lists[n - 3].clone_from(&other.lists[n - 3]),
                6..=8 => mixed.sets[n - 6].clone_from(&other.sets[n - 6]),
                _ => mixed.instructions.clone_from(&other.instructions),
            }
            mixed
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let text = || "[ab]{0,2}";
        let list = || prop::collection::vec("[ab,]{0,2}", 0..3);
        let three = (text(), text(), text()).prop_map(<[String; 3]>::from);
        let lists = (list(), list(), list()).prop_map(<[Vec<String>; 3]>::from);
        let sets = (list(), list(), list()).prop_map(<[Vec<String>; 3]>::from);
        (three, lists, sets, prop::option::of(text())).prop_map(|(texts, lists, sets, instructions)| Parts {
            texts,
            lists,
            instructions,
            sets,
        })
    }

    proptest! {
        #[test]
        fn two_pins_are_equal_only_if_everything_is(a in parts(), b in parts(), n in 0usize..10, from in 0usize..3, to in 0usize..3) {
            prop_assert_eq!(a.pin() == b.pin(), a.clone().meant() == b.clone().meant());
            let one = a.with(n, &b);
            prop_assert_eq!(a.pin() == one.pin(), a.clone().meant() == one.meant());
            // What stands at the end of one list stands in the next one instead.
            let mut moved = a.clone();
            if let Some(last) = moved.lists[from].pop() {
                moved.lists[to].insert(0, last);
            }
            prop_assert_eq!(a.pin() == moved.pin(), a.clone().meant() == moved.meant());
        }

        #[test]
        fn any_byte_of_a_descriptor_that_matters_changes_its_digest(at in 0..TOOL.len(), byte in 0x20u8..0x7f) {
            let mut changed = TOOL.as_bytes().to_vec();
            // There is no white space in it that would not matter.
            changed[at] = byte;
            let changed = String::from_utf8(changed).unwrap();
            if let (true, Ok(descriptor)) = (changed != TOOL, Json::parse(&changed, 64)) {
                prop_assert_ne!(tool_digest(&descriptor), tool_digest(&json(TOOL)), "{}", changed);
            }
        }
    }

    proptest! {
        #[test]
        fn no_collision_by_moving_a_border(a in "[a-z ]{0,6}", b in "[a-z ]{0,6}", c in "[a-z ]{0,6}", d in "[a-z ]{0,6}") {
            let one = launch_digest(&launch(&a, &[&b]));
            let two = launch_digest(&launch(&c, &[&d]));
            prop_assert_eq!(one == two, a == c && b == d);
            let joined = format!("{a}{b}");
            prop_assert_ne!(launch_digest(&launch("p", &[&joined])), launch_digest(&launch("p", &[&a, &b])));
        }

        #[test]
        fn different_lists_have_different_digests(a in prop::collection::vec("[ab]{0,3}", 0..4), b in prop::collection::vec("[ab]{0,3}", 0..4)) {
            let digest = |list: &[String]| Pin::new("t").list(list.iter().map(String::as_str)).finish();
            prop_assert_eq!(digest(&a) == digest(&b), a == b);
        }
    }
}
