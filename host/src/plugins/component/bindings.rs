//! What wasmtime makes of the world in the plugin API's `wit/`.

#![allow(missing_docs, unreachable_pub)]

wasmtime::component::bindgen!({
    path: "../plugin-api/wit",
    world: "plugin",
    imports: {
        "alknet:plugin/connections.[method]send-stream.connect": store | trappable,
        "alknet:plugin/connections.[method]recv-stream.data": store | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "alknet:plugin/connections.connection": alknet_plugin_api::Connection,
        "alknet:plugin/connections.send-stream": super::imports::SendHalf,
        "alknet:plugin/connections.recv-stream": super::imports::RecvHalf,
        "alknet:plugin/capabilities.capability": alknet_plugin_api::Capability,
        "alknet:plugin/operations.call-stream": super::imports::Items,
        "alknet:plugin/operations.environment": super::imports::Environment,
        "alknet:plugin/operations.context": alknet_plugin_api::OperationContext,
        "alknet:plugin/operations.item-sink": super::imports::Sink,
        "alknet:plugin/host.gateway": super::imports::PeerGateway,
        "alknet:plugin/host.gateway-call": super::imports::Events,
    },
});
