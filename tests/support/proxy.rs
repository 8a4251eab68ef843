//! A way to Redis that gets worse when it is told to.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Passes on what is sent to a Redis and what it answers. Lives as long as the test's runtime.
pub struct Proxy {
    url: String,
    way: watch::Sender<Way>,
}

struct Way {
    /// The socket of the Redis that new connections lead to.
    socket: String,
    /// How much later than Redis sent it an answer arrives.
    delay: Duration,
    /// Connections from before the last cut pass nothing on.
    cuts: u32,
}

impl Proxy {
    /// In front of the Redis on that Unix socket.
    pub async fn before(socket: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("an address"));
        let (way, ways) = watch::channel(Way { socket, delay: Duration::ZERO, cuts: 0 });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let socket = ways.borrow().socket.clone();
                if let Ok(redis) = UnixStream::connect(socket).await {
                    tokio::spawn(connection(client, redis, ways.clone()));
                }
            }
        });
        Self { url, way }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on answers arrive so much later.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// The connections that there are pass nothing on any more, and nobody is told: what a lost
    /// route or a machine without power looks like. New ones can be made.
    pub fn cut(&self) {
        self.way.send_modify(|way| way.cuts += 1);
    }

    /// New connections lead to another Redis, those that there are stay: what a name that moves to
    /// another machine looks like.
    pub fn lead_to(&self, socket: String) {
        self.way.send_modify(|way| way.socket = socket);
    }
}

async fn connection(client: TcpStream, redis: UnixStream, mut ways: watch::Receiver<Way>) {
    let made_after = ways.borrow().cuts;
    let (mut questions, mut client) = client.into_split();
    let (mut redis, mut to_redis) = redis.into_split();
    let (late, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let delays = ways.clone();
    let answers = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = redis.read(&mut buffer).await {
            let arrival = Instant::now() + delays.borrow().delay;
            let _ = late.send((arrival, buffer[..bytes].to_vec()));
        }
    };
    let delivery = async move {
        while let Some((arrival, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(arrival).await;
            if client.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let passing = async {
        tokio::select! {
            _ = tokio::io::copy(&mut questions, &mut to_redis) => {}
            () = async { tokio::join!(answers, delivery); } => {}
        }
    };
    let cut = async { ways.wait_for(|way| way.cuts != made_after).await.is_ok() };
    tokio::pin!(passing);
    tokio::select! {
        () = &mut passing => {}
        // Both ends stay open, for ever.
        true = cut => std::future::pending().await,
    }
}
