//! The world's other form (`wit-futures` in the plugin API).
//!
//! Not every language's tools can import an `async func`. In this form such an
//! import is a function that returns a future at once, which is the same thing
//! said in types. All else is the same, and so are the host's functions: here they
//! run beside the plugin, and give up when it drops the future.

use alknet_plugin_api::{Capability, Connection, OperationContext};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use wasmtime::component::types::{Component as ComponentType, ComponentItem, Type};
use wasmtime::component::{
    Accessor, AccessorTask, ComponentNamedList, FutureReader, JoinHandle, Lift, Linker,
    LinkerInstance, Lower, Resource,
};
use wasmtime::{AsContextMut, Result, StoreContextMut};

use super::super::bindings::alknet::plugin::{capabilities, connections, host, operations};
use super::super::instance::State;
use super::{Environment, Events, Imports, Items, SendHalf, Sink};

/// Whether a component is built against this form.
pub(in super::super) fn is_used_by(ty: &ComponentType, engine: &wasmtime::Engine) -> bool {
    let is_future = |ty: Type| matches!(ty, Type::Future(_));
    ty.imports(engine).any(|(_, import)| {
        match import.ty {
        ComponentItem::ComponentInstance(interface) => interface.exports(engine).any(|(_, item)| {
            matches!(item.ty, ComponentItem::ComponentFunc(func) if func.results().any(is_future))
        }),
        _ => false,
    }
    })
}

/// Puts functions that return a future in the place of those that are async.
pub(in super::super) fn replace_in(linker: &mut Linker<State>) -> Result<()> {
    use connections::{HostConnectionWithStore as _, HostSendStreamWithStore as _};
    use host::HostGatewayCallWithStore as _;
    use operations::{HostContextWithStore as _, HostEnvironmentWithStore as _};
    type Stream = Resource<SendHalf>;
    type On = Resource<Connection>;
    type Env = Resource<Environment>;
    type Call = Resource<OperationContext>;

    linker.allow_shadowing(true);
    let mut to = linker.instance("alknet:plugin/connections@1.0.0")?;
    put(&mut to, "[method]send-stream.stopped", |host, (stream,): (Stream,)| {
        Box::pin(Imports::stopped(host, stream))
    })?;
    put(&mut to, "[method]connection.accept-bi", |host, (on,): (On,)| {
        Box::pin(Imports::accept_bi(host, on))
    })?;
    put(&mut to, "[method]connection.open-bi", |host, (on,): (On,)| {
        Box::pin(Imports::open_bi(host, on))
    })?;
    put(&mut to, "[method]connection.accept-uni", |host, (on,): (On,)| {
        Box::pin(Imports::accept_uni(host, on))
    })?;
    put(&mut to, "[method]connection.open-uni", |host, (on,): (On,)| {
        Box::pin(Imports::open_uni(host, on))
    })?;
    put(&mut to, "[method]connection.read-datagram", |host, (on,): (On,)| {
        Box::pin(Imports::read_datagram(host, on))
    })?;
    put(&mut to, "[method]connection.closed", |host, (on,): (On,)| {
        Box::pin(Imports::closed(host, on))
    })?;
    put(&mut to, "[method]connection.shutdown", |host, (on,): (On,)| {
        Box::pin(done(<Imports as connections::HostConnectionWithStore<_>>::shutdown(host, on)))
    })?;

    let mut to = linker.instance("alknet:plugin/operations@1.0.0")?;
    put(&mut to, "[method]call-stream.next", |host, (stream,): (Resource<Items>,)| {
        Box::pin(<Imports as operations::HostCallStreamWithStore<_>>::next(host, stream))
    })?;
    put(&mut to, "[method]environment.invoke", |host, (env, name, input, policy)| {
        let env: Env = env;
        Box::pin(Imports::invoke(host, env, name, input, policy))
    })?;
    put(&mut to, "[method]environment.invoke-peer", |host, (env, peer, name, input)| {
        let env: Env = env;
        Box::pin(Imports::invoke_peer(host, env, peer, name, input))
    })?;
    put(&mut to, "[method]context.cancelled", |host, (call,): (Call,)| {
        Box::pin(done(Imports::cancelled(host, call)))
    })?;
    put(&mut to, "[method]context.ownership", |host, (call, request): (Call, String)| {
        Box::pin(Imports::ownership(host, call, request))
    })?;
    put(&mut to, "[method]item-sink.send", |host, (sink, item): (Resource<Sink>, Vec<u8>)| {
        Box::pin(done(<Imports as operations::HostItemSinkWithStore<_>>::send(host, sink, item)))
    })?;

    let mut to = linker.instance("alknet:plugin/capabilities@1.0.0")?;
    put(&mut to, "[method]capability.send", |host, (capability, request)| {
        let capability: Resource<Capability> = capability;
        Box::pin(<Imports as capabilities::HostCapabilityWithStore<_>>::send(
            host, capability, request,
        ))
    })?;

    let mut to = linker.instance("alknet:plugin/host@1.0.0")?;
    put(&mut to, "sleep", |host, (duration,): (u64,)| {
        Box::pin(done(<Imports as host::HostWithStore<_>>::sleep(host, duration)))
    })?;
    put(&mut to, "shutdown", |host, (): ()| {
        Box::pin(done(<Imports as host::HostWithStore<_>>::shutdown(host)))
    })?;
    put(&mut to, "[method]gateway-call.next", |host, (call,): (Resource<Events>,)| {
        Box::pin(Imports::next(host, call))
    })
}

/// What the future of a function without a result gives: not every language's tools
/// know futures of nothing.
async fn done(work: impl Future<Output = Result<()>>) -> Result<bool> {
    work.await.map(|()| true)
}

/// Puts a function that returns a future of what `work` gives.
fn put<P, R, W>(to: &mut LinkerInstance<'_, State>, name: &str, work: W) -> Result<()>
where
    P: ComponentNamedList + Lift + Send + 'static,
    R: Lift + Lower + Send + Sync + 'static,
    W: for<'a> Fn(&'a Accessor<State, Imports>, P) -> BoxFuture<'a, Result<R>>
        + Copy
        + Send
        + Sync
        + 'static,
{
    to.func_wrap(name, move |mut store: StoreContextMut<'_, State>, params: P| {
        let (answer, answered) = oneshot::channel();
        let task = Task { work, params, answer };
        let running = Running(store.as_context_mut().spawn(task)?);
        let future = async move {
            let _running = running;
            answered.await?
        };
        Ok((FutureReader::new(store, future)?,))
    })
}

/// An import at work beside the plugin.
struct Task<P, R, W> {
    work: W,
    params: P,
    answer: oneshot::Sender<Result<R>>,
}

impl<P, R, W> AccessorTask<State> for Task<P, R, W>
where
    P: Send + 'static,
    R: Send + 'static,
    W: for<'a> Fn(&'a Accessor<State, Imports>, P) -> BoxFuture<'a, Result<R>> + Send + 'static,
{
    async fn run(self, accessor: &Accessor<State>) -> Result<()> {
        let accessor = accessor.with_getter::<Imports>(|state| state);
        let answer = (self.work)(&accessor, self.params).await;
        // Whoever asked may have gone.
        let _ = self.answer.send(answer);
        Ok(())
    }
}

/// Gives the work up when nobody waits for it any more.
struct Running(JoinHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
