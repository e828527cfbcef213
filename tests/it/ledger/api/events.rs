//! Live events.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// A client of `/v1/events`.
struct Stream {
    tcp: TcpStream,
    text: String,
}

impl Stream {
    async fn open(recorded: &Recorded, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::new("GET", path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let mut tcp = TcpStream::connect(recorded.porter.ops).await.expect("connects");
        tcp.write_all(&request.bytes()).await.expect("sent");
        let mut stream = Self { tcp, text: String::new() };
        stream.until(|text| text.contains("\r\n\r\n")).await;
        stream
    }

    /// Reads until the text is as it should be, or the stream ends.
    async fn until(&mut self, is_there: impl Fn(&str) -> bool) {
        let reading = async {
            while !is_there(&self.text) {
                let mut bytes = [0; 4096];
                match self.tcp.read(&mut bytes).await.expect("no reset") {
                    0 => return,
                    read => self.text.push_str(&String::from_utf8_lossy(&bytes[..read])),
                }
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("still {}", self.text));
    }

    async fn ids(&mut self, count: usize) -> Vec<String> {
        let ids = |text: &str| -> Vec<String> {
            let events = text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n"));
            let lines = events.flat_map(str::lines);
            lines.filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
        };
        self.until(|text| ids(text).len() >= count).await;
        ids(&self.text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_live_and_resume_where_they_were_cut_off() {
    for store in Store::BOTH {
        let recorded = Recorded::new(store).await;
        let mut live = Stream::open(&recorded, "/v1/events?verdict=deny", None).await;
        assert!(live.text.starts_with("HTTP/1.1 200"), "{}", live.text);
        assert!(live.text.contains("content-type: text/event-stream\r\n"), "{}", live.text);
        for n in 0..3 {
            recorded.is_denied(&format!("/{n}")).await;
        }
        let ids = live.ids(3).await;
        assert_eq!(live.text.matches(r#""reason":"terminal_required""#).count(), 3);
        drop(live);
        for n in 3..6 {
            recorded.is_denied(&format!("/{n}")).await;
        }
        let path = "/v1/events?verdict=deny";
        let mut resumed = Stream::open(&recorded, path, Some(&ids[1])).await;
        let rest = resumed.ids(4).await;
        assert_eq!(rest[0], ids[2]);
        for n in 2..6 {
            assert_eq!(resumed.text.matches(&format!(r#""path":"/{n}""#)).count(), 1, "{n}");
        }
        let mut whole = Stream::open(&recorded, &format!("{path}&after=-1"), None).await;
        assert_eq!(whole.ids(6).await[..3], ids);
        let refused = Stream::open(&recorded, path, Some("x")).await;
        assert!(refused.text.contains("400 Bad Request"), "{}", refused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_do_not_wait_for_the_job_that_gives_positions() {
    for store in Store::BOTH {
        // Nobody who listens waits for an hour.
        let jobs = "[jobs]\nintegrity = \"1h\"\n";
        let recorded = Recorded::with(store, "", jobs).await;
        let mut live = Stream::open(&recorded, "/v1/events?verdict=deny", None).await;
        for n in 0..3 {
            recorded.is_denied(&format!("/{n}")).await;
            live.ids(n + 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_end_with_the_process() {
    let mut recorded = Recorded::new(Store::Files).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(Stream::open(&recorded, "/v1/events", None).await);
    }
    let refused = problem(&recorded.get("/v1/events").await, 503);
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("streams")), "{refused}");
    // Other requests are answered, and so is a stream once another one has ended.
    assert_eq!(recorded.get("/v1/requests").await.status, 200);
    streams.pop();
    poll("a free stream", PATIENCE, async || {
        let stream = Stream::open(&recorded, "/v1/events", None).await;
        stream.text.starts_with("HTTP/1.1 200")
    })
    .await;
    recorded.porter.shut_down();
    for mut stream in streams {
        stream.until(|_| false).await;
        assert!(stream.text.ends_with("0\r\n\r\n"), "the end of a body: {}", stream.text);
    }
}
