//! The PROXY protocol, versions 1 and 2 (haproxy, `doc/proxy-protocol.txt`): how a TLS terminator
//! or a balancer says whose connection it passes on, so that limits count the client and not the
//! terminator.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end (§2.1).
const LONGEST_LINE: usize = 107;
/// Addresses and what follows them in version 2. Longer ones are not needed here.
const LONGEST_BLOCK: u16 = 2048;

/// Reads the header that every connection of a proxy begins with, and not a byte more. `None`: the
/// proxy's own connection, or one of which it does not say whose.
///
/// # Errors
/// There is no such header, or it is none of the two versions.
pub(crate) async fn source<S>(stream: &mut S) -> io::Result<Option<SocketAddr>>
where
    S: AsyncRead + Unpin,
{
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == *SIGNATURE {
        return binary(stream).await;
    }
    // Byte by byte, since what comes behind the line is TLS. The shortest line is longer than
    // `first`.
    let mut line = first.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE || !b"PROXY ".starts_with(&line[..line.len().min(6)]) {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    text(&line)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn text(line: &[u8]) -> io::Result<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let mut words = line.trim_end_matches("\r\n").split(' ');
    if words.next() != Some("PROXY") {
        return Err(malformed());
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let words: Vec<&str> = words.collect();
    let [source, _, port, _] = words[..] else {
        return Err(malformed());
    };
    let address: IpAddr = source.parse().map_err(|_| malformed())?;
    let port = port.parse().map_err(|_| malformed())?;
    match (family, address) {
        (Some("TCP4"), IpAddr::V4(_)) | (Some("TCP6"), IpAddr::V6(_)) => {
            Ok(Some(SocketAddr::new(address, port)))
        }
        _ => Err(malformed()),
    }
}

async fn binary<S>(stream: &mut S) -> io::Result<Option<SocketAddr>>
where
    S: AsyncRead + Unpin,
{
    let version_and_command = stream.read_u8().await?;
    let family = stream.read_u8().await?;
    let len = stream.read_u16().await?;
    if len > LONGEST_BLOCK {
        return Err(malformed());
    }
    let mut block = vec![0; len.into()];
    stream.read_exact(&mut block).await?;
    match (version_and_command, family) {
        // LOCAL: a health check.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            let (address, rest) = block.split_first_chunk::<4>().ok_or_else(malformed)?;
            let port = port_behind(rest, 4)?;
            Ok(Some((Ipv4Addr::from(*address), port).into()))
        }
        (0x21, 0x21) => {
            let (address, rest) = block.split_first_chunk::<16>().ok_or_else(malformed)?;
            let port = port_behind(rest, 16)?;
            Ok(Some((Ipv6Addr::from(*address), port).into()))
        }
        // Another transport.
        (0x21, _) => Ok(None),
        _ => Err(malformed()),
    }
}

/// The source's port: behind the destination's address.
fn port_behind(rest: &[u8], address: usize) -> io::Result<u16> {
    let port = rest.get(address..).and_then(<[u8]>::first_chunk::<2>);
    port.map(|port| u16::from_be_bytes(*port))
        .ok_or_else(malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
        let mut rest = bytes;
        let source = source(&mut rest).await?;
        Ok((source, rest.to_vec()))
    }

    fn of_version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let len = u16::try_from(block.len()).unwrap().to_be_bytes();
        [
            &SIGNATURE[..],
            &[0x20 | command, family],
            &len,
            block,
            b"rest",
        ]
        .concat()
    }

    #[tokio::test]
    async fn both_versions_tell_the_source_and_leave_what_follows() {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let block_4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x9c, 0x40, 1, 187];
        let block_6 = [
            &v6.octets()[..],
            &[0; 16],
            &[0x9c, 0x40, 1, 187],
            &[4, 0, 1, 0],
        ]
        .concat();
        for (bytes, source) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\nrest".to_vec(),
                Some("192.0.2.1:40000"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\nrest".to_vec(),
                Some("[2001:db8::7]:40000"),
            ),
            (b"PROXY UNKNOWN\r\nrest".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nrest".to_vec(), None),
            (of_version_2(1, 0x11, &block_4), Some("192.0.2.1:40000")),
            (of_version_2(1, 0x21, &block_6), Some("[2001:db8::7]:40000")),
            (of_version_2(0, 0, &[]), None),
            (of_version_2(1, 0x31, &[0; 216]), None),
        ] {
            let (found, rest) = read(&bytes).await.unwrap();
            let expected: Option<SocketAddr> = source.map(|source| source.parse().unwrap());
            assert_eq!(found, expected, "{}", bytes.escape_ascii());
            assert_eq!(rest, b"rest");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_however_it_goes_on() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 and so on",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 40000\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 70000 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 40000 443\r\n",
            b"PROXY TCP4 192.0.2.1",
        ] {
            assert!(read(bytes).await.is_err(), "{}", bytes.escape_ascii());
        }
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 4096]].concat();
        assert!(read(&endless).await.is_err());
        // Too short for a destination, of another version, cut.
        assert!(read(&of_version_2(1, 0x11, &[1; 9])).await.is_err());
        assert!(read(&of_version_2(2, 0x11, &[1; 12])).await.is_err());
        let mut long = of_version_2(1, 0x11, &[1; 4000]);
        assert!(read(&long).await.is_err());
        long.truncate(100);
        assert!(read(&long).await.is_err());
    }
}
