//! The cost of the worst requests that a stranger can send, compared with a plain one.
//!
//! All use kept-alive connections to the same process, in alternating slices, so the ratio
//! of the processor times depends on the request only.

use crate::footprint::float;
use crate::load::{AUTH, Headers, Load, Requests, Settings, Slice, Transport};
use crate::process::Process;
use crate::sample::{self, SampleBox};
use crate::{Length, ask, first_answer, median, start_load};

/// The number of concurrent requests: what one stranger can send, not what saturates a box.
const CONCURRENCY: usize = 8;

/// The target for the cost of the worst request, as a multiple of a plain one.
const TARGET: f64 = 20.0;

/// The longest path that the front proxies pass on by default, in bytes.
const LONG: usize = 7_900;

/// The longest paths of which one signed text, or three texts together, are at most 12 KiB
/// if the request target is signed as well, in bytes.
const MOST_IN_ONE: usize = 5_900;
const MOST_IN_THREE: usize = 1_850;

/// The longest value that fits into a head together with the other headers, in bytes.
const LONGEST: usize = 60_000;

fn worst(sample: &SampleBox) -> Vec<(&'static str, Headers)> {
    let known = sample::host(0);
    let fill = |start: &str, unit: &str, length: usize| {
        format!("{start}{}", unit.repeat((length - start.len()) / unit.len()))
    };
    let of = |host: &str, uri: &str, further: Vec<(&str, String)>| {
        let mut headers = sample::forwarded(host, uri);
        headers.extend(further.into_iter().map(|(name, value)| (name.to_owned(), value)));
        headers
    };
    let mixed = fill("/public/", "//\\;/./%2541", LONG);
    let public = |unit: &str, length: usize| of(&known, &fill("/public/", unit, length), vec![]);
    let [input, signature] = sample.signature(&known, "/peer/item");
    // As long as a real signature; only the last bytes matter for base64.
    let digits = signature.trim_end_matches(['=', ':']).len() - "sig=:".len();
    let forged = signature.replacen(&signature["sig=:".len()..][..digits], &"A".repeat(digits), 1);
    let forged_large = format!("sig=:{}:", "A".repeat(6144 / 8 / 3 * 4));
    // The form with the most variants to try: a port, and the request target is covered.
    let signed_with = |uri: &str, input: &str, signature: &str| {
        let covered = "\"@target-uri\" \"@request-target\")";
        let input = input.replace("\"@target-uri\")", covered);
        let signature = vec![("signature-input", input), ("signature", signature.to_owned())];
        of(&format!("{known}:443"), uri, signature)
    };
    let signed = |uri: &str| signed_with(uri, &input, &forged);
    let large_key = input.replace(sample.key_id(), sample.large_key_id());
    vec![
        ("slashes, parameters and escapes", of(&known, &mixed, vec![])),
        ("the same for an unknown host", of("nobody.box.example", &mixed, vec![])),
        (
            "the same for a private path",
            of(&known, &mixed.replacen("public", "xpublic", 1), vec![]),
        ),
        ("escapes", public("%20", LONG)),
        ("escapes of escapes", public("%252e%252e%252f", LONG)),
        ("dot segments", public("a/../", LONG)),
        ("parameters", public("a;b/", LONG)),
        ("backslashes", public("..\\", LONG)),
        ("overlong UTF-8", public("%c0%ae", LONG)),
        ("escapes of IIS", public("%u002e", LONG)),
        ("short, and read in many ways", public("%252f%5c;%3b%2e/..//x", 200)),
        ("60 KB, plain", public("abc/", LONGEST)),
        ("60 KB, escaped", public("%41", LONGEST)),
        ("60 KB, mixed", of(&known, &fill("/public/", "//\\;/./%2541", LONGEST), vec![])),
        (
            "a token of 8 KB",
            of(&known, "/page", vec![("cookie", fill("authorization=e30.", "e30", 8_000) + ".x")]),
        ),
        ("cookies of 60 KB", of(&known, "/page", vec![("cookie", fill("", "a=b; ", LONGEST))])),
        ("a forged signature", signed("/peer/item")),
        ("the same of one long text", signed(&fill("/peer/", "a", MOST_IN_ONE))),
        ("the same of three long texts", signed(&fill("/peer/", "a", MOST_IN_THREE))),
        ("the same of too long a text", signed(&fill("/peer/", "a", LONG))),
        ("the same of a path to escape", signed(&fill("/peer/", "|", LONG))),
        ("the same of 60 KB", signed(&fill("/peer/", "a", LONGEST))),
        ("the same by a large key", signed_with("/peer/item", &large_key, &forged_large)),
        (
            "the same of one long text by it",
            signed_with(&fill("/peer/", "a", MOST_IN_ONE), &large_key, &forged_large),
        ),
    ]
}

pub fn print(length: &Length) {
    let sample = SampleBox::new(10, 10);
    let mut server = Process::nightporter(&sample.config(""));
    let gate = server.address();
    let loader = |name: usize, headers: &Headers| {
        let answer = first_answer(gate, headers);
        let settings = Settings {
            transport: Transport::KeepAlive,
            concurrency: CONCURRENCY,
            path: AUTH.to_owned(),
            requests: Requests::Listed(vec![headers.clone()]),
            status: answer.status,
            body: answer.body.clone(),
            certificate: None,
        };
        (answer.status, start_load(&sample, &format!("load-{name}.json"), &settings))
    };
    let plain = sample::forwarded(&sample::host(0), "/public/page");
    let (_, mut plain) = loader(0, &plain);
    // Returns the server's processor time per request, and the median latency.
    let slice = |load: &mut Process| {
        let before = server.cpu();
        let Load { requests, seconds: _, p50, p99: _ } =
            ask(load, Slice { target: gate, longest: length.slice, most: usize::MAX });
        [float(server.cpu() - before) / float(requests as u64), float(p50) / 1e3]
    };
    println!(
        "\nstrangers' requests compared with a plain one (target: ≤ {TARGET} times its \
         processor time)"
    );
    slice(&mut plain);
    let mut most: f64 = 0.0;
    for (number, (name, headers)) in worst(&sample).iter().enumerate() {
        let (status, mut load) = loader(number + 1, headers);
        slice(&mut load);
        let pairs: Vec<_> =
            (0..length.pairs).map(|_| [slice(&mut plain), slice(&mut load)]).collect();
        let ratio = |at: usize| median(pairs.iter().map(|[plain, worst]| worst[at] / plain[at])).0;
        let [cpu, p50] = [0, 1].map(|at| median(pairs.iter().map(|[_, worst]| worst[at])).0);
        println!(
            "  {name:<34} {status}  processor {cpu:>7.1} µs, {:>5.1} times  p50 {p50:>7.1} µs, \
             {:>5.1} times",
            ratio(0),
            ratio(1)
        );
        most = most.max(ratio(0));
    }
    println!("  the worst costs {most:.1} times a plain one");
}
