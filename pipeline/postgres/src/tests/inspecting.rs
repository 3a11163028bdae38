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
        // Both clients get the one connection; the first gets another one the second time.
        for connections in [1, 3] {
            let (address, _) = address_and_database(&db.url);
            let port = pooler(&db.url, connections);
            let url = db.url.replace(&address, &format!("127.0.0.1:{port}"));
            assert!(pooled(&url).await.unwrap(), "{connections} connections behind it");
        }
    })
    .await;
}

fn address_and_database(url: &str) -> (String, String) {
    let (_, rest) = url.split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    (address.to_owned(), database.to_owned())
}

/// A pooler of this many server connections, each lent for a transaction, the one that rested longest first. It ends with the process.
fn pooler(url: &str, connections: usize) -> u16 {
    let (address, database) = address_and_database(url);
    let user = url.split("://").nth(1).unwrap().split(['@', ':']).next().unwrap();
    let server = || {
        let mut server = TcpStream::connect(&address).unwrap();
        let mut startup = vec![0, 3, 0, 0];
        startup.extend(format!("user\0{user}\0database\0{database}\0\0").bytes());
        server.write_all(&(startup.len() as u32 + 4).to_be_bytes()).unwrap();
        server.write_all(&startup).unwrap();
        while message(&mut server).unwrap()[0] != b'Z' {}
        server
    };
    let resting: Vec<TcpStream> = (0..connections).map(|_| server()).collect();
    let resting = Arc::new(Mutex::new(resting));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let resting = resting.clone();
            // Ends with its client.
            std::thread::spawn(move || serve(client.unwrap(), &resting));
        }
    });
    port
}

fn serve(mut client: TcpStream, resting: &Mutex<Vec<TcpStream>>) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut startup)?;
        match startup[..4] == [0, 3, 0, 0] {
            true => break,
            // It asks for TLS.
            false => client.write_all(b"N")?,
        }
    }
    client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")?;
    let mut lent: Option<TcpStream> = None;
    loop {
        let query = message(&mut client)?;
        if query[0] == b'X' {
            return Ok(());
        }
        let mut server = lent.take().unwrap_or_else(|| resting.lock().unwrap().remove(0));
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
