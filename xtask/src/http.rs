//! Just enough HTTP to read a service's admin listener on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Status and body of `GET path` at `address`.
///
/// # Errors
/// Nobody answers in time, or what answers does not speak HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    tokio::time::timeout(TIMEOUT, exchange(address, path))
        .await
        .context("no answer in time")?
}

async fn exchange(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("not HTTP")?;
    Ok((status, body.to_owned()))
}
