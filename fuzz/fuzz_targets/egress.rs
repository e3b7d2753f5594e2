//! A host that may be opened is in the one spelling that reads back as itself, and never this host unless it was asked
//! for by its address.

use std::net::IpAddr;

use lazaret::admission::Egress;

fuzz_target!(|text: &str| {
    for private in [false, true] {
        let Ok(egress) = Egress::parse(text, private) else { continue };
        assert_eq!(Egress::parse(&egress.to_string(), private).as_ref(), Ok(&egress));
        let written = serde_json::to_string(&egress).expect("it can be written");
        assert_eq!(serde_json::from_str::<Egress>(&written).expect("it can be read again"), egress);
        assert!(egress.host().bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c)));
        assert!(egress.port() != 0 && !egress.host().ends_with('.') && egress.host() != "localhost");
        let here = ["127.0.0.1", "127.1.2.3", "169.254.169.254", "168.63.129.16", "::1", "::ffff:127.0.0.1", "fe80::1"];
        for ip in here.map(|ip| ip.parse::<IpAddr>().expect("an address")) {
            let named = egress.address().is_some_and(|literal| IpAddr::V4(literal) == ip);
            assert!(!egress.admits(ip) || private && named, "{egress} {ip}");
        }
        assert!(private || !egress.admits("10.0.0.1".parse().expect("an address")), "{egress}");
    }
});
