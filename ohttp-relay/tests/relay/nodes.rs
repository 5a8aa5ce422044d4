//! One gateway of several nodes: the relay asks one of them, and another one only with what was
//! never sent.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use service::SystemClock;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{
    Served, StubGateway, config, encapsulated, free_port, raw_gateway, serve_relay, stub_gateway,
};

/// The name in the URL leads nowhere: only the addresses do.
async fn relay_before(nodes: [SocketAddr; 2]) -> Served {
    let settings = format!(
        "connect_seconds = 2\n[[gateways]]\npath = '/g'\nurl = 'http://gateway.invalid/'\n\
         addresses = ['{}', '{}']",
        nodes[0], nodes[1]
    );
    let config = config("http://127.0.0.1:1/", &settings);
    serve_relay(&config, SystemClock::shared()).await
}

async fn post(relay: &Served) -> (u16, Vec<u8>) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(relay.url("/g"));
    let request = request.header(CONTENT_TYPE, "message/ohttp-req").body("x");
    let answer = request.send().await.unwrap();
    (
        answer.status().as_u16(),
        answer.bytes().await.unwrap().to_vec(),
    )
}

/// A node that names itself, until it is stopped.
async fn node(port: u16, name: &'static str) -> service::ShutdownTrigger {
    let (router, _) = StubGateway::router(Duration::ZERO, move || encapsulated(name));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (trigger, shutdown) = service::Shutdown::channel();
    let limits = service::http::Limits::default();
    tokio::spawn(service::http::serve(listener, router, limits, shutdown));
    trigger
}

async fn stop(node: service::ShutdownTrigger, port: u16) {
    node.request();
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nodes_are_restarted_one_after_the_other_and_every_request_is_answered_by_the_one_that_is_up()
 {
    let ports = [free_port(), free_port()];
    let relay = relay_before(ports.map(|port| ([127, 0, 0, 1], port).into())).await;
    let mut first = node(ports[0], "first").await;
    let mut second = node(ports[1], "second").await;
    for _ in 0..3 {
        assert_eq!(post(&relay).await, (200, b"first".to_vec()));
        stop(first, ports[0]).await;
        assert_eq!(post(&relay).await, (200, b"second".to_vec()));
        first = node(ports[0], "first").await;
        // It knows nothing of what the second one has opened: it is asked when that one goes.
        assert_eq!(post(&relay).await, (200, b"second".to_vec()));
        stop(second, ports[1]).await;
        assert_eq!(post(&relay).await, (200, b"first".to_vec()));
        second = node(ports[1], "second").await;
    }
    stop(first, ports[0]).await;
    stop(second, ports[1]).await;
    assert_eq!(post(&relay).await.0, 502);
}

#[tokio::test]
async fn a_request_that_was_sent_to_one_node_is_not_sent_to_another() {
    let breaking = raw_gateway(|mut stream| async move {
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
    })
    .await;
    let sound = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let relay = relay_before([breaking, sound.served.address]).await;
    for _ in 0..5 {
        assert_eq!(post(&relay).await.0, 502);
    }
    assert!(sound.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_takes_no_connection_leaves_time_for_the_next_one() {
    // Its backlog is full, so that the next connection waits for ever.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connected =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address));
        waiting.push(connected.await);
    }
    let sound = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let relay = relay_before([address, sound.served.address]).await;
    assert_eq!(post(&relay).await, (200, b"answer".to_vec()));
}
