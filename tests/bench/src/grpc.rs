//! gRPC over TLS with tonic: the alternative that most people would pick. The
//! service is written by hand, so that no `protoc` is needed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use anyhow::Result;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::certificate::{self, NAME};
use crate::load::Load;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tonic::server::UnaryService<Text> for Echo {
    type Response = Text;
    type Future = std::future::Ready<Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

pub(crate) async fn serve() -> Result<()> {
    let made = certificate::make()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    certificate::announce(listener.local_addr()?, &made.certificate);
    Server::builder()
        .tls_config(
            ServerTlsConfig::new().identity(Identity::from_pem(&made.certificate, &made.key)),
        )?
        .tcp_nodelay(true)
        .add_service(Echo)
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

pub(crate) async fn load(address: SocketAddr, load: &Load) -> Result<f64> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(load.certificate()?))
        .domain_name(NAME);
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let text = load.text();
    load.run(|_| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let message = Text { text: text.clone() };
        async move {
            grpc.ready().await?;
            let path = PathAndQuery::from_static("/bench.Echo/Say");
            let codec = ProstCodec::<Text, Text>::default();
            let answer: Response<Text> = grpc.unary(Request::new(message), path, codec).await?;
            std::hint::black_box(answer);
            Ok(())
        }
    })
    .await
}
