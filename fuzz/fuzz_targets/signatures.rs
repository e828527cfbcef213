#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;
use nightporter::gate::credentials::peer::PeerKeys;
use nightporter::store::Peer;

/// The time at which the seeds were signed.
const CREATED: u64 = 1_795_251_867;

/// A key that nobody signs with, under an id that the seeds use.
static KEYS: LazyLock<PeerKeys> = LazyLock::new(|| {
    let peer = Peer {
        id: "ff1gfz".into(),
        name: "Peer".into(),
        public_key_pem: include_str!("../seeds/key.pem").to_owned(),
    };
    PeerKeys::new(&[peer])
});

fuzz_target!(|bytes: &[u8]| {
    assert!(!KEYS.is_empty());
    fuzzing::signature(bytes, &KEYS, UNIX_EPOCH + Duration::from_secs(CREATED));
});
