//! Traces at a collector: their contents, their propagation, and the callers that may request one.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Instant,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use reqwest::StatusCode;

use super::{CLIENT, World, eventually};

/// A collector of traces that understands OTLP over HTTP.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Arc::default());
        let keep: Arc<Mutex<Vec<Span>>> = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let keep = Arc::clone(&keep);
                std::thread::spawn(move || Self::take(stream, &keep));
            }
        });
        Self { address, spans }
    }

    /// Reads one request after the other, until the exporter closes the connection.
    fn take(mut stream: TcpStream, keep: &Mutex<Vec<Span>>) {
        let mut received = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(received[..end].to_vec()).unwrap();
                assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let length: usize = length.unwrap();
                if received.len() >= end + 4 + length {
                    let body: Vec<u8> = received.drain(..end + 4 + length).skip(end + 4).collect();
                    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
                    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
                    keep.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
                    let answer =
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).unwrap();
                    continue;
                }
            }
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(read) => received.extend_from_slice(&chunk[..read]),
            }
        }
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

fn attribute(span: &Span, name: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_continues_from_caller_to_upstream() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let mut world = World::start(&[("SHOPPER_GATEWAY__TRACES__ENDPOINT", &endpoint)]).await;
    let token = world.guest("login-1").await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let own = [("traceparent", parent.as_str()), ("tracestate", "vendor=1"), ("correlation-id", "forward-1")];
    let answer = world.products(&token, &own).await;
    assert_eq!(answer, StatusCode::OK);
    assert_eq!(world.products("", &[("correlation-id", "refused-1")]).await, StatusCode::UNAUTHORIZED);
    // A caller that has decided against a trace.
    let unwanted = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let answer = world.products(&token, &[("traceparent", unwanted), ("correlation-id", "untraced-1")]).await;
    assert_eq!(answer, StatusCode::OK);
    eventually("all lines are there", || world.access().len() == 4);
    // A line names its trace, and names none that was not exported.
    let trace_of = |id: &str| {
        let lines = world.access();
        lines.iter().find(|line| line["correlation_id"] == id).unwrap()["trace_id"].as_str().map(str::to_owned)
    };
    assert_eq!((trace_of("forward-1").as_deref(), trace_of("untraced-1")), (Some(TRACE), None));
    let trace_of_login = trace_of("login-1").unwrap();
    // At its end the process exports the remaining spans.
    world.serving.signal("-TERM");
    assert_eq!(world.serving.code(), Some(0));

    let spans = collector.spans();
    let of_request = |correlation_id: &str| {
        spans
            .iter()
            .find(|span| attribute(span, "correlation_id") == correlation_id)
            .unwrap_or_else(|| panic!("{spans:?}"))
    };
    let below = |parent: &Span, name: &str| {
        let found = spans.iter().find(|span| span.name == name && span.parent_span_id == parent.span_id);
        found.unwrap_or_else(|| panic!("no {name} below {}: {spans:#?}", parent.name))
    };
    let forward = of_request("forward-1");
    assert_eq!(
        (hex(&forward.trace_id), hex(&forward.parent_span_id)),
        (TRACE.to_owned(), "b7ad6b7169203331".to_owned())
    );
    assert_eq!((forward.name.as_str(), forward.kind), ("shopper-products.getProducts", SpanKind::Server as i32));
    assert_eq!(
        attribute(forward, "http.route"),
        "/product/shopper-products/v1/organizations/{organizationId}/products"
    );
    assert_eq!(attribute(forward, "http.response.status_code"), "200");
    assert_eq!(attribute(below(forward, "verify"), "result"), "cached");
    below(forward, "cache");
    let upstream = below(forward, "upstream");
    // Salesforce's side continues below the gateway's upstream span, with the same correlation id.
    let ledger = world.simulator.ledger();
    let received = ledger.iter().find(|entry| entry.flow == "shopper-products.getProducts").unwrap();
    let header =
        |name: &str| received.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone()).unwrap();
    assert_eq!(header("traceparent"), format!("00-{TRACE}-{}-01", hex(&upstream.span_id)));
    assert_eq!((header("correlation-id"), header("tracestate")), ("forward-1".to_owned(), "vendor=1".to_owned()));

    let login = of_request("login-1");
    let exchange = below(login, "exchange");
    assert_eq!((attribute(exchange, "service"), attribute(exchange, "outcome")), ("slas".to_owned(), "ok".to_owned()));
    assert_ne!(login.trace_id, forward.trace_id);
    assert_eq!(hex(&login.trace_id), trace_of_login);
    let refused = of_request("refused-1");
    assert_eq!(attribute(refused, "refusal"), "token_missing");
    let all = format!("{spans:?}");
    for secret in ["PLANTED", token.trim_start_matches("Bearer "), CLIENT] {
        assert!(!all.contains(secret), "{secret} is in a span");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traceparent_is_forwarded_unchanged_without_collector() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = World::start(&[]).await;
    let token = world.guest("login-1").await;
    world.products(&token, &[("traceparent", parent)]).await;
    let ledger = world.simulator.ledger();
    let received = ledger.iter().find(|entry| entry.flow == "shopper-products.getProducts").unwrap();
    assert!(received.headers.iter().any(|(name, value)| name == "traceparent" && value == parent), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_collector_fails_no_request() {
    let world = World::start(&[("SHOPPER_GATEWAY__TRACES__ENDPOINT", "http://127.0.0.1:9")]).await;
    let token = world.guest("login-1").await;
    for _ in 0..50 {
        assert_eq!(world.products(&token, &[]).await, StatusCode::OK);
    }
    // The failure is logged once, and counted.
    let said = || world.serving.lines(|line| line["key"] == "traces.endpoint").len();
    eventually("it is said that nobody takes the spans", || said() == 1);
    let metrics =
        world.client.get(format!("http://{}/metrics", world.admin)).send().await.unwrap().text().await.unwrap();
    let failed = metrics.lines().find_map(|line| {
        line.strip_prefix("shopper_gateway_spans_exported_total{outcome=\"failed\"} ")?.parse::<u64>().ok()
    });
    assert!(failed.unwrap() > 0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_traceparent_is_replaced() {
    let world = World::start(&[("SHOPPER_GATEWAY__TRACES__ENDPOINT", "http://127.0.0.1:9")]).await;
    let token = world.guest("login-1").await;
    let garbled = [("traceparent", "garbled"), ("tracestate", "vendor=1")];
    assert_eq!(world.products(&token, &garbled).await, StatusCode::OK);
    let ledger = world.simulator.ledger();
    let received = ledger.iter().find(|entry| entry.flow == "shopper-products.getProducts").unwrap();
    let of_trace: Vec<_> = received.headers.iter().filter(|(name, _)| name.starts_with("trace")).collect();
    assert!(matches!(of_trace[..], [(name, value)] if name == "traceparent" && value != "garbled"), "{of_trace:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_sampled_traces_are_rate_limited() {
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let mut world = World::start(&[
        ("SHOPPER_GATEWAY__TRACES__ENDPOINT", &endpoint),
        ("SHOPPER_GATEWAY__TRACES__SAMPLE_RATIO", "0.000001"),
        ("SHOPPER_GATEWAY__TRACES__PARENT_SAMPLED_PER_SECOND", "1"),
    ])
    .await;
    let began = Instant::now();
    for number in 1..=100 {
        let parent = format!("00-{number:032x}-b7ad6b7169203331-01");
        assert_eq!(world.products("", &[("traceparent", &parent)]).await, StatusCode::UNAUTHORIZED);
    }
    let seconds = began.elapsed().as_secs() as usize;
    world.serving.signal("-TERM");
    assert_eq!(world.serving.code(), Some(0));
    let kept = collector.spans().iter().filter(|span| span.kind == SpanKind::Server as i32).count();
    assert!((1..=seconds + 2).contains(&kept), "{kept} in {seconds} s");
}
