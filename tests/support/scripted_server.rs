//! A scripted server: each test decides which bytes it writes, valid or not.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The server's part of a handshake, with bytes of a first frame in the same segment.
pub async fn accept(listener: &TcpListener, behind: &[u8]) -> BufReader<TcpStream> {
    let mut socket = BufReader::new(listener.accept().await.unwrap().0);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.split_once("Sec-WebSocket-Key: ").unwrap().1;
    let key = derive_accept_key(key.split("\r\n").next().unwrap().as_bytes());
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\n\r\n"
    )
    .into_bytes();
    response.extend_from_slice(behind);
    socket.write_all(&response).await.unwrap();
    socket
}

/// A text frame of a server.
pub fn server_frame(text: &str) -> Vec<u8> {
    let mut frame = match text.len() {
        0..126 => vec![0x81, text.len() as u8],
        length => [&[0x81, 126], &(length as u16).to_be_bytes()[..]].concat(),
    };
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The payload of the next frame of a client, unmasked.
pub async fn client_frame(socket: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut head = [0; 2];
    socket.read_exact(&mut head).await.unwrap();
    let length = match head[1] & 0x7f {
        126 => socket.read_u16().await.unwrap().into(),
        127 => socket.read_u64().await.unwrap() as usize,
        length => length.into(),
    };
    let mut mask = [0; 4];
    socket.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.unwrap();
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    payload
}
