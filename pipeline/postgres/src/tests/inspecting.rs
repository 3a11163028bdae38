use super::fixture::{Db, identity, with_db};
use crate::pooled;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn a_stored_source_tells_what_differs_and_what_its_vectors_are() {
    with_db(|db: Db| async move {
        let store = db.store().await;
        assert_eq!(store.stored_source("test", "jobs").await.unwrap(), None);
        let sink = db.sink().await;
        let stored = store.stored_source("test", "jobs").await.unwrap().unwrap();
        assert_eq!((stored.generation, stored.dimension), (sink.generation(), 4));
        assert_eq!(stored.column.as_deref(), Some("halfvec(4)"));
        assert!(identity().differences(&stored.spec).is_empty());
        let mut other = identity();
        other.model = "m@2".into();
        assert_eq!(other.differences(&stored.spec), ["then `model[3] = m@1`, now `model[3] = m@2`"]);
        let table = format!("spawn.embedding_{}", sink.generation());
        db.execute(&format!("DROP TABLE {table} CASCADE")).await;
        assert_eq!(store.stored_source("test", "jobs").await.unwrap().unwrap().column, None);
        db.execute(&format!("CREATE TABLE {table} (vector halfvec(5))")).await;
        let stored = store.stored_source("test", "jobs").await.unwrap().unwrap();
        assert_eq!(stored.column.as_deref(), Some("halfvec(5)"));
    })
    .await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_noticed() {
    with_db(|db: Db| async move {
        assert!(!pooled(&db.url).await.unwrap(), "the server itself");
        // Both clients get the one connection; or the first gets another one the second time.
        for connections in [1, 2] {
            let address = address_of(&db.url);
            let port = pooler(address.clone(), connections);
            let url = db.url.replace(&address, &format!("127.0.0.1:{port}"));
            assert!(pooled(&url).await.unwrap(), "{connections} connections behind it");
        }
    })
    .await;
}

fn address_of(url: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split_once('/').unwrap().0.to_owned()
}

/// A pooler of at most this many server connections, each lent for a transaction, the one that was used last first. It ends with the process.
fn pooler(address: String, connections: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let resting = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (address, resting) = (address.clone(), resting.clone());
            // Ends with its client.
            std::thread::spawn(move || serve(client.unwrap(), &address, connections, &resting));
        }
    });
    port
}

/// Lets the client log in by itself; the connection that it got is one of the pool then, if there is room.
fn log_in(client: &mut TcpStream, address: &str) -> std::io::Result<(TcpStream, Vec<u8>)> {
    let mut server = TcpStream::connect(address)?;
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut startup)?;
        match startup[..4] == [0, 3, 0, 0] {
            true => {
                server.write_all(&length)?;
                server.write_all(&startup)?;
                break;
            }
            // It asks for TLS.
            false => client.write_all(b"N")?,
        }
    }
    loop {
        let answer = message(&mut server)?;
        if answer[0] == b'Z' {
            return Ok((server, answer));
        }
        client.write_all(&answer)?;
        // A question of the login, which the client answers: a password, or the next step of SASL.
        if answer[0] == b'R' && [3, 5, 10, 11].contains(&answer[8]) {
            server.write_all(&message(client)?)?;
        }
    }
}

fn serve(
    mut client: TcpStream,
    address: &str,
    connections: usize,
    resting: &Mutex<Vec<TcpStream>>,
) -> std::io::Result<()> {
    let (server, ready) = log_in(&mut client, address)?;
    let mut pool = resting.lock().unwrap();
    if pool.len() < connections {
        pool.push(server);
    }
    drop(pool);
    client.write_all(&ready)?;
    let mut lent: Option<TcpStream> = None;
    loop {
        let query = message(&mut client)?;
        if query[0] == b'X' {
            return Ok(());
        }
        let mut server = lent.take().unwrap_or_else(|| resting.lock().unwrap().pop().expect("one at rest"));
        server.write_all(&query)?;
        let mut answers = Vec::new();
        let in_transaction = loop {
            let answer = message(&mut server)?;
            answers.extend_from_slice(&answer);
            if answer[0] == b'Z' {
                break answer[5] != b'I';
            }
        };
        // At rest before the client hears of it.
        match in_transaction {
            true => lent = Some(server),
            false => resting.lock().unwrap().push(server),
        }
        client.write_all(&answers)?;
    }
}

/// A whole message: its type, its length, its content.
fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    stream.read_exact(&mut message)?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]) as usize;
    message.resize(length + 1, 0);
    stream.read_exact(&mut message[5..])?;
    Ok(message)
}
