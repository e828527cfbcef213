use super::*;

fn judged(address: &str, allowed: &[&str]) -> Result<(), Refusal> {
    let allowed: Vec<Allowed> = allowed.iter().map(|text| text.parse().expect(text)).collect();
    judge("ntfy.lan", address.parse().expect(address), &allowed)
}

#[test]
fn public_addresses_are_sent_to() {
    for address in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00::1",
        "2001:200::1",
        "2003::1",
    ] {
        assert_eq!(judged(address, &[]), Ok(()), "{address}");
    }
}

#[test]
fn special_addresses_are_refused_by_both_ends_of_their_ranges() {
    for (address, class) in [
        ("0.0.0.0", "unspecified"),
        ("0.255.255.255", "unspecified"),
        ("10.0.0.0", "private"),
        ("10.255.255.255", "private"),
        ("100.64.0.0", "CGNAT"),
        ("100.127.255.255", "CGNAT"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("169.254.0.1", "link-local"),
        ("169.254.255.255", "link-local"),
        ("172.16.0.0", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.0", "protocols"),
        ("192.0.0.255", "protocols"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4"),
        ("192.168.255.255", "private"),
        ("198.18.0.0", "benchmarks"),
        ("198.19.255.255", "benchmarks"),
        ("198.51.100.7", "documentation"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::1", "loopback"),
        ("::8.8.8.8", "compatible"),
        ("::ffff:8.8.8.8", "mapped"),
        ("::ffff:0:8.8.8.8", "translated"),
        ("64:ff9b::8.8.8.8", "NAT64"),
        ("64:ff9b:1:2::8.8.8.8", "NAT64"),
        ("100::1", "discarded"),
        ("2001:0:808:808::f7f7:f7f7", "Teredo"),
        ("2001:2::1", "benchmarks"),
        ("2001:10::1", "ORCHID"),
        ("2001:2f:ffff::1", "ORCHID"),
        ("2001:1ff::1", "protocols"),
        ("2001:db8::1", "documentation"),
        ("2002:808:808::1", "6to4"),
        ("3fff:fff::1", "documentation"),
        ("4000::1", "outside"),
        ("5f00::1", "outside"),
        ("fc00::1", "ULA"),
        ("fdff::1", "ULA"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2a00:1:2:3:0:5efe:10.0.0.1", "private"),
    ] {
        let refusal = judged(address, &[]).expect_err(address);
        assert!(refusal.class.contains(class), "{address}: {}", refusal.class);
    }
}

#[test]
fn the_operator_may_allow_hosts_and_networks() {
    for (address, allowed) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "ntfy.lan"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("100.100.1.1", "100.64.0.0/10"),
        ("fd12::1", "fd12::/16"),
        ("::1", "::1"),
        ("64:ff9b::8.8.8.8", "64:ff9b::/96"),
        ("::ffff:10.0.0.1", "ntfy.lan"),
    ] {
        assert_eq!(judged(address, &[allowed]), Ok(()), "{address} {allowed}");
        let refusal = judged(address, &["ntfy.home", "10.1.2.4", "fe80::/10"]).expect_err(address);
        assert!(refusal.may_be_allowed, "{address}");
    }
}

#[test]
fn a_network_of_translators_does_not_allow_what_is_behind_them() {
    let behind = ["64:ff9b::10.0.0.1", "2002:a00:1::1", "::ffff:10.0.0.1"];
    for address in behind {
        let refusal = judged(address, &["64:ff9b::/96", "2002::/16", "::/96", "::ffff:0:0/96"]);
        let refusal = refusal.expect_err(address);
        assert_eq!((refusal.class, refusal.may_be_allowed), ("a private address", true));
        let both = ["64:ff9b::/96", "2002::/16", "::ffff:0:0/96", "10.0.0.0/8"];
        assert_eq!(judged(address, &both), Ok(()), "{address}");
    }
}

#[test]
fn metadata_services_are_never_sent_to_in_any_spelling() {
    let everything = ["ntfy.lan", "0.0.0.0/0", "::/0"];
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        // Teredo, by its server and by its client, whose bits are inverted.
        "2001:0:a9fe:a9fe::1",
        "2001:0:808:808::5601:5601",
        "2a00:1:2:3:200:5efe:169.254.169.254",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:0.0.0.0",
        "64:ff9b::224.0.0.1",
        "ff02::1",
    ] {
        let refusal = judged(address, &everything).expect_err(address);
        assert!(!refusal.may_be_allowed, "{address}");
    }
}

#[test]
fn what_is_allowed_is_a_host_or_a_network() {
    for (text, expected) in [
        ("ntfy.lan", "ntfy.lan"),
        ("NTFY.Lan.", "ntfy.lan"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.168.1.7/24", "192.168.1.0/24"),
        ("192.168.1.7", "192.168.1.7"),
        ("fd00::1", "fd00::1"),
    ] {
        assert_eq!(text.parse::<Allowed>().expect(text).to_string(), expected);
    }
    for text in ["", ".", "http://ntfy.lan", "a b", "0x7f.1", "10.0.0.0/33", "[::1]"] {
        assert!(text.parse::<Allowed>().is_err(), "{text}");
    }
}
