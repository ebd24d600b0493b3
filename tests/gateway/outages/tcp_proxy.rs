//! A TCP proxy in front of Salesforce that can be closed: new connections fail, and open connections continue.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The common prefix of SLAS's paths.
const SLAS: &[u8] = b" /shopper/auth/";

pub struct TcpProxy {
    pub address: SocketAddr,
    target: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    to_slas: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl TcpProxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut port = Self { address, target, accepting: None, to_slas: Arc::default() };
        port.accept(listener);
        port
    }

    /// Refuses new connections from now on.
    pub async fn close(&mut self) {
        let accepting = self.accepting.take().unwrap();
        accepting.abort();
        // The aborted task releases the port.
        let _ = accepting.await;
        self.to_slas.lock().drain(..).for_each(|connection| connection.abort());
    }

    pub async fn open(&mut self) {
        self.accept(TcpListener::bind(self.address).await.unwrap());
    }

    fn accept(&mut self, listener: TcpListener) {
        let (target, to_slas) = (self.target, Arc::clone(&self.to_slas));
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let connection = tokio::spawn(forward(near, target));
                to_slas.lock().push(connection);
            }
        }));
    }
}

/// Forwards bytes. Connections to the APIs are served by a task that continues after the port is closed.
async fn forward(mut near: TcpStream, target: SocketAddr) {
    let mut begin = [0; 512];
    let Ok(read) = near.peek(&mut begin).await else { return };
    let mut far = TcpStream::connect(target).await.unwrap();
    let is_slas = begin[..read].windows(SLAS.len()).any(|window| window == SLAS);
    let both = async move {
        // If one side breaks off, the other is closed too.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        let _ = far.shutdown().await;
    };
    if is_slas { both.await } else { drop(tokio::spawn(both)) }
}
