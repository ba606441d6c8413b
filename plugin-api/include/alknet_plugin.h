/*
 * The native interface of alknet, in C. Made from the Rust types; do not edit.
 *
 * A plugin is a shared library that exports `alknet_plugin_c_header_1` (see
 * ALKNET_EXPORT at the end). Either side follows only its own pointers: what it gets
 * of the other side's is a handle, which is a pointer with a table of functions that
 * take it. To call one: `connection.table->accept_bi(connection.data, &out, &fault)`.
 *
 * What is passed or returned by value, or written to an out parameter, changes its
 * owner. Handles and tasks are given back with `drop`, blobs with `release`. A function
 * that returns a status has written its out parameter, its fault, or neither, as the
 * status says. Functions without an owner may be called by several threads at once.
 */
#ifndef ALKNET_PLUGIN_H
#define ALKNET_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALKNET_API_MAJOR 1                 /* Must be the daemon's. */
#define ALKNET_API_MINOR 0
#define ALKNET_READY 0                     /* Done; the out parameter is written. */
#define ALKNET_PENDING 1                   /* Not yet; the waker will be woken. */
#define ALKNET_NONE 2                      /* There is nothing. Nothing is written. */
#define ALKNET_FAULT 3                     /* It failed; the fault parameter is written. */
#define ALKNET_POLLED_FAULT 16             /* In alknet_polled: plus a fault's code. */
#define ALKNET_FAULT_PANICKED 1            /* The other side's code broke down. */
#define ALKNET_FAULT_CONNECTION_CLOSED 2   /* By either side. */
#define ALKNET_FAULT_STREAM_CLOSED 3       /* Or it cannot do this. */
#define ALKNET_FAULT_TIMEOUT 4             /* Nothing arrived in time. */
#define ALKNET_FAULT_RESET 5               /* By the peer, with the code in `detail`. */
#define ALKNET_FAULT_STOPPED 6             /* By the peer, with the code in `detail`. */
#define ALKNET_FAULT_IO 7                  /* The text is its message. */
#define ALKNET_FAULT_CALL 8                /* Of a call; the text is the error as JSON. */
#define ALKNET_FAULT_AUTH_REQUIRED 9       /* The peer must authenticate. */
#define ALKNET_FAULT_INTERNAL 10           /* Anything else, told in the text. */
#define ALKNET_FAULT_TOO_LARGE 11          /* `extra` bytes are the most. */

/* What is the same in every minor version, as one number. */
#define ALKNET_FINGERPRINT \
    "ab7a7ab1f909059daf0b851abe4cac149b344c92f83c927e6ff7d11471a787e0"

typedef struct alknet_blob alknet_blob;
typedef struct alknet_blob_task alknet_blob_task;
typedef struct alknet_capability alknet_capability;
typedef struct alknet_capability_table alknet_capability_table;
typedef struct alknet_connection alknet_connection;
typedef struct alknet_connection_table alknet_connection_table;
typedef struct alknet_context alknet_context;
typedef struct alknet_context_table alknet_context_table;
typedef struct alknet_env alknet_env;
typedef struct alknet_env_table alknet_env_table;
typedef struct alknet_event alknet_event;
typedef struct alknet_event_task alknet_event_task;
typedef struct alknet_fault alknet_fault;
typedef struct alknet_gateway alknet_gateway;
typedef struct alknet_gateway_table alknet_gateway_table;
typedef struct alknet_halves alknet_halves;
typedef struct alknet_halves_task alknet_halves_task;
typedef struct alknet_host alknet_host;
typedef struct alknet_host_table alknet_host_table;
typedef struct alknet_module_table alknet_module_table;
typedef struct alknet_pair alknet_pair;
typedef struct alknet_pairs alknet_pairs;
typedef struct alknet_plugin alknet_plugin;
typedef struct alknet_plugin_table alknet_plugin_table;
typedef struct alknet_polled alknet_polled;
typedef struct alknet_recv alknet_recv;
typedef struct alknet_recv_table alknet_recv_table;
typedef struct alknet_recv_task alknet_recv_task;
typedef struct alknet_request alknet_request;
typedef struct alknet_send alknet_send;
typedef struct alknet_send_table alknet_send_table;
typedef struct alknet_send_task alknet_send_task;
typedef struct alknet_slice alknet_slice;
typedef struct alknet_stats alknet_stats;
typedef struct alknet_task alknet_task;
typedef struct alknet_task_table alknet_task_table;
typedef struct alknet_unit alknet_unit;
typedef struct alknet_unit_task alknet_unit_task;
typedef struct alknet_waker alknet_waker;
typedef struct alknet_waker_table alknet_waker_table;

/* Owned bytes. Whoever holds them gives them back: `release(owner)`. Where `release` is
 * null they are only lent, until the call returns; what a plugin answers with must then
 * be constant data. */
struct alknet_blob {
    const uint8_t *ptr;
    size_t len;
    void *owner;
    void (*release)(void *owner);
};
_Static_assert(offsetof(alknet_blob, ptr) == 0, "alknet_blob.ptr");
_Static_assert(offsetof(alknet_blob, len) == 8, "alknet_blob.len");
_Static_assert(offsetof(alknet_blob, owner) == 16, "alknet_blob.owner");
_Static_assert(offsetof(alknet_blob, release) == 24, "alknet_blob.release");
_Static_assert(sizeof(alknet_blob) == 32, "alknet_blob");

/* Why something failed: `code` is one of ALKNET_FAULT_*. It owns its text. */
struct alknet_fault {
    uint32_t code;
    uint64_t detail;
    uint64_t extra;
    alknet_blob text;
};
_Static_assert(offsetof(alknet_fault, code) == 0, "alknet_fault.code");
_Static_assert(offsetof(alknet_fault, detail) == 8, "alknet_fault.detail");
_Static_assert(offsetof(alknet_fault, extra) == 16, "alknet_fault.extra");
_Static_assert(offsetof(alknet_fault, text) == 24, "alknet_fault.text");
_Static_assert(sizeof(alknet_fault) == 56, "alknet_fault");

/* What something gives that gives nothing. */
struct alknet_unit {
    uint8_t field_0;
};
_Static_assert(offsetof(alknet_unit, field_0) == 0, "alknet_unit.field_0");
_Static_assert(sizeof(alknet_unit) == 1, "alknet_unit");

/* `clone` gives a waker that is owned; `wake` and `drop` take one back. */
struct alknet_waker_table {
    alknet_waker (*clone)(const void *data, const void *raw);
    void (*wake)(const void *data, const void *raw);
    void (*wake_by_ref)(const void *data, const void *raw);
    void (*drop)(const void *data, const void *raw);
};
_Static_assert(offsetof(alknet_waker_table, clone) == 0, "alknet_waker_table.clone");
_Static_assert(offsetof(alknet_waker_table, wake) == 8, "alknet_waker_table.wake");
_Static_assert(offsetof(alknet_waker_table, wake_by_ref) == 16, "alknet_waker_table.wake_by_ref");
_Static_assert(offsetof(alknet_waker_table, drop) == 24, "alknet_waker_table.drop");
_Static_assert(sizeof(alknet_waker_table) == 32, "alknet_waker_table");

/* A waker, lent until the poll returns. To keep one, clone it. */
struct alknet_waker {
    const void *data;
    const void *raw;
    const alknet_waker_table *table;
};
_Static_assert(offsetof(alknet_waker, data) == 0, "alknet_waker.data");
_Static_assert(offsetof(alknet_waker, raw) == 8, "alknet_waker.raw");
_Static_assert(offsetof(alknet_waker, table) == 16, "alknet_waker.table");
_Static_assert(sizeof(alknet_waker) == 24, "alknet_waker");

struct alknet_unit_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_unit *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_unit_task, data) == 0, "alknet_unit_task.data");
_Static_assert(offsetof(alknet_unit_task, poll) == 8, "alknet_unit_task.poll");
_Static_assert(offsetof(alknet_unit_task, drop) == 16, "alknet_unit_task.drop");
_Static_assert(sizeof(alknet_unit_task) == 24, "alknet_unit_task");

/* A task that was spawned. Dropping the handle lets it run. */
struct alknet_task_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    void (*abort)(void *data);
    uint32_t (*poll_ended)(void *data, const alknet_waker *waker);
};
#define ALKNET_TASK_TABLE_FIELDS UINT64_C(0x7)
_Static_assert(offsetof(alknet_task_table, drop) == 16, "alknet_task_table.drop");
_Static_assert(offsetof(alknet_task_table, abort) == 24, "alknet_task_table.abort");
_Static_assert(offsetof(alknet_task_table, poll_ended) == 32, "alknet_task_table.poll_ended");

struct alknet_task {
    void *data;
    const alknet_task_table *table;
};
_Static_assert(offsetof(alknet_task, data) == 0, "alknet_task.data");
_Static_assert(offsetof(alknet_task, table) == 8, "alknet_task.table");
_Static_assert(sizeof(alknet_task) == 16, "alknet_task");

/* Borrowed bytes or text (UTF-8), valid until the call returns that they are passed to.
 * A null pointer stands for "none". */
struct alknet_slice {
    const uint8_t *ptr;
    size_t len;
};
_Static_assert(offsetof(alknet_slice, ptr) == 0, "alknet_slice.ptr");
_Static_assert(offsetof(alknet_slice, len) == 8, "alknet_slice.len");
_Static_assert(sizeof(alknet_slice) == 16, "alknet_slice");

/* A name with a text. */
struct alknet_pair {
    alknet_slice name;
    alknet_slice value;
};
_Static_assert(offsetof(alknet_pair, name) == 0, "alknet_pair.name");
_Static_assert(offsetof(alknet_pair, value) == 16, "alknet_pair.value");
_Static_assert(sizeof(alknet_pair) == 32, "alknet_pair");

/* Borrowed names with texts. */
struct alknet_pairs {
    const alknet_pair *ptr;
    size_t len;
};
_Static_assert(offsetof(alknet_pairs, ptr) == 0, "alknet_pairs.ptr");
_Static_assert(offsetof(alknet_pairs, len) == 8, "alknet_pairs.len");
_Static_assert(sizeof(alknet_pairs) == 16, "alknet_pairs");

/* Something that takes time, and what it gives. `poll` returns ALKNET_PENDING, ALKNET_READY
 * with `out` written, ALKNET_FAULT with `fault` written, or, where it gives many, ALKNET_NONE
 * after the last. Whoever holds it drops it, once; it is not polled after its end. */
struct alknet_blob_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_blob *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_blob_task, data) == 0, "alknet_blob_task.data");
_Static_assert(offsetof(alknet_blob_task, poll) == 8, "alknet_blob_task.poll");
_Static_assert(offsetof(alknet_blob_task, drop) == 16, "alknet_blob_task.drop");
_Static_assert(sizeof(alknet_blob_task) == 24, "alknet_blob_task");

/* A secret that the operator lends. */
struct alknet_capability_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*kind)(void *data, alknet_blob *out, alknet_fault *fault);
    uint32_t (*reveal)(void *data, alknet_blob *out, alknet_fault *fault);
    uint32_t (*sign)(void *data, alknet_slice message, uint8_t *out, alknet_fault *fault);
    /* Not in every minor version: see ALKNET_HAS. */
    uint32_t (*send)(void *data, alknet_blob request, alknet_blob_task *out, alknet_fault *fault);
};
#define ALKNET_CAPABILITY_SEND 4
#define ALKNET_CAPABILITY_TABLE_FIELDS UINT64_C(0x1f)
_Static_assert(offsetof(alknet_capability_table, drop) == 16, "alknet_capability_table.drop");
_Static_assert(offsetof(alknet_capability_table, kind) == 24, "alknet_capability_table.kind");
_Static_assert(offsetof(alknet_capability_table, reveal) == 32, "alknet_capability_table.reveal");
_Static_assert(offsetof(alknet_capability_table, sign) == 40, "alknet_capability_table.sign");
_Static_assert(offsetof(alknet_capability_table, send) == 48, "alknet_capability_table.send");

struct alknet_capability {
    void *data;
    const alknet_capability_table *table;
};
_Static_assert(offsetof(alknet_capability, data) == 0, "alknet_capability.data");
_Static_assert(offsetof(alknet_capability, table) == 8, "alknet_capability.table");
_Static_assert(sizeof(alknet_capability) == 16, "alknet_capability");

/* Calls of other operations. Input and output are JSON; `policy` is 0 for the usual, 1 to
 * abort what the call has started with it, 2 to let that go on. `contains` gives
 * ALKNET_READY or ALKNET_NONE. */
struct alknet_env_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*invoke)(void *data, alknet_slice name, alknet_blob input, uint32_t policy, alknet_blob_task *out, alknet_fault *fault);
    uint32_t (*subscribe)(void *data, alknet_slice name, alknet_blob input, uint32_t policy, alknet_blob_task *out, alknet_fault *fault);
    uint32_t (*invoke_peer)(void *data, alknet_slice peer, alknet_slice name, alknet_blob input, alknet_blob_task *out, alknet_fault *fault);
    uint32_t (*contains)(void *data, alknet_slice name, alknet_unit *out, alknet_fault *fault);
    uint32_t (*peer_contains)(void *data, alknet_slice peer, alknet_slice name, alknet_unit *out, alknet_fault *fault);
};
#define ALKNET_ENV_TABLE_FIELDS UINT64_C(0x3f)
_Static_assert(offsetof(alknet_env_table, drop) == 16, "alknet_env_table.drop");
_Static_assert(offsetof(alknet_env_table, invoke) == 24, "alknet_env_table.invoke");
_Static_assert(offsetof(alknet_env_table, subscribe) == 32, "alknet_env_table.subscribe");
_Static_assert(offsetof(alknet_env_table, invoke_peer) == 40, "alknet_env_table.invoke_peer");
_Static_assert(offsetof(alknet_env_table, contains) == 48, "alknet_env_table.contains");
_Static_assert(offsetof(alknet_env_table, peer_contains) == 56, "alknet_env_table.peer_contains");

struct alknet_env {
    void *data;
    const alknet_env_table *table;
};
_Static_assert(offsetof(alknet_env, data) == 0, "alknet_env.data");
_Static_assert(offsetof(alknet_env, table) == 8, "alknet_env.table");
_Static_assert(sizeof(alknet_env) == 16, "alknet_env");

/* One request of a peer. `timeout` in nanoseconds, UINT64_MAX for none. */
struct alknet_request {
    alknet_slice request_id;
    alknet_slice operation;
    alknet_blob input;
    alknet_slice auth_token;
    alknet_slice forwarded_for;
    uint64_t timeout;
    alknet_slice remote_addr;
};
_Static_assert(offsetof(alknet_request, request_id) == 0, "alknet_request.request_id");
_Static_assert(offsetof(alknet_request, operation) == 16, "alknet_request.operation");
_Static_assert(offsetof(alknet_request, input) == 32, "alknet_request.input");
_Static_assert(offsetof(alknet_request, auth_token) == 64, "alknet_request.auth_token");
_Static_assert(offsetof(alknet_request, forwarded_for) == 80, "alknet_request.forwarded_for");
_Static_assert(offsetof(alknet_request, timeout) == 96, "alknet_request.timeout");
_Static_assert(offsetof(alknet_request, remote_addr) == 104, "alknet_request.remote_addr");
_Static_assert(sizeof(alknet_request) == 120, "alknet_request");

/* What comes back for a request: 0 an answer, 1 the end, 2 an error as JSON. */
struct alknet_event {
    uint32_t kind;
    alknet_blob payload;
};
_Static_assert(offsetof(alknet_event, kind) == 0, "alknet_event.kind");
_Static_assert(offsetof(alknet_event, payload) == 8, "alknet_event.payload");
_Static_assert(sizeof(alknet_event) == 40, "alknet_event");

struct alknet_event_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_event *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_event_task, data) == 0, "alknet_event_task.data");
_Static_assert(offsetof(alknet_event_task, poll) == 8, "alknet_event_task.poll");
_Static_assert(offsetof(alknet_event_task, drop) == 16, "alknet_event_task.drop");
_Static_assert(sizeof(alknet_event_task) == 24, "alknet_event_task");

/* Calls on behalf of a connection's peer. */
struct alknet_gateway_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*dispatch)(void *data, alknet_request request, alknet_event_task *out, alknet_fault *fault);
    void (*abort)(void *data, alknet_slice request_id, uint32_t policy);
};
#define ALKNET_GATEWAY_TABLE_FIELDS UINT64_C(0x7)
_Static_assert(offsetof(alknet_gateway_table, drop) == 16, "alknet_gateway_table.drop");
_Static_assert(offsetof(alknet_gateway_table, dispatch) == 24, "alknet_gateway_table.dispatch");
_Static_assert(offsetof(alknet_gateway_table, abort) == 32, "alknet_gateway_table.abort");

struct alknet_gateway {
    void *data;
    const alknet_gateway_table *table;
};
_Static_assert(offsetof(alknet_gateway, data) == 0, "alknet_gateway.data");
_Static_assert(offsetof(alknet_gateway, table) == 8, "alknet_gateway.table");
_Static_assert(sizeof(alknet_gateway) == 16, "alknet_gateway");

/* The host's services. Levels of the log: 1 error, 2 warn, 3 info, 4 debug, 5 trace.
 * Durations and times are nanoseconds. */
struct alknet_host_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*spawn)(void *data, alknet_unit_task task, alknet_task *out, alknet_fault *fault);
    uint32_t (*sleep)(void *data, uint64_t nanos, alknet_unit_task *out, alknet_fault *fault);
    uint64_t (*now)(void *data);
    uint64_t (*unix_time)(void *data);
    uint32_t (*log_enabled)(void *data, uint32_t level, alknet_slice target);
    void (*log)(void *data, uint32_t level, alknet_slice target, alknet_slice message, alknet_pairs fields);
    void (*counter)(void *data, alknet_slice name, alknet_pairs labels, uint64_t add);
    void (*gauge)(void *data, alknet_slice name, alknet_pairs labels, double value);
    void (*histogram)(void *data, alknet_slice name, alknet_pairs labels, double value);
    uint32_t (*resolve_token)(void *data, alknet_slice token, alknet_blob *out, alknet_fault *fault);
    uint32_t (*resolve_fingerprint)(void *data, alknet_slice fingerprint, alknet_blob *out, alknet_fault *fault);
    uint32_t (*capability)(void *data, alknet_slice name, alknet_capability *out, alknet_fault *fault);
    uint32_t (*env)(void *data, alknet_env *out, alknet_fault *fault);
    uint32_t (*gateway)(void *data, void *connection, alknet_gateway *out, alknet_fault *fault);
    uint32_t (*shutdown)(void *data, alknet_unit_task *out, alknet_fault *fault);
};
#define ALKNET_HOST_TABLE_FIELDS UINT64_C(0xffff)
_Static_assert(offsetof(alknet_host_table, drop) == 16, "alknet_host_table.drop");
_Static_assert(offsetof(alknet_host_table, spawn) == 24, "alknet_host_table.spawn");
_Static_assert(offsetof(alknet_host_table, sleep) == 32, "alknet_host_table.sleep");
_Static_assert(offsetof(alknet_host_table, now) == 40, "alknet_host_table.now");
_Static_assert(offsetof(alknet_host_table, unix_time) == 48, "alknet_host_table.unix_time");
_Static_assert(offsetof(alknet_host_table, log_enabled) == 56, "alknet_host_table.log_enabled");
_Static_assert(offsetof(alknet_host_table, log) == 64, "alknet_host_table.log");
_Static_assert(offsetof(alknet_host_table, counter) == 72, "alknet_host_table.counter");
_Static_assert(offsetof(alknet_host_table, gauge) == 80, "alknet_host_table.gauge");
_Static_assert(offsetof(alknet_host_table, histogram) == 88, "alknet_host_table.histogram");
_Static_assert(offsetof(alknet_host_table, resolve_token) == 96, "alknet_host_table.resolve_token");
_Static_assert(offsetof(alknet_host_table, resolve_fingerprint) == 104, "alknet_host_table.resolve_fingerprint");
_Static_assert(offsetof(alknet_host_table, capability) == 112, "alknet_host_table.capability");
_Static_assert(offsetof(alknet_host_table, env) == 120, "alknet_host_table.env");
_Static_assert(offsetof(alknet_host_table, gateway) == 128, "alknet_host_table.gateway");
_Static_assert(offsetof(alknet_host_table, shutdown) == 136, "alknet_host_table.shutdown");

struct alknet_host {
    void *data;
    const alknet_host_table *table;
};
_Static_assert(offsetof(alknet_host, data) == 0, "alknet_host.data");
_Static_assert(offsetof(alknet_host, table) == 8, "alknet_host.table");
_Static_assert(sizeof(alknet_host) == 16, "alknet_host");

/* What a poll of a stream gives: `status` is ALKNET_READY, ALKNET_PENDING, ALKNET_NONE, or
 * ALKNET_POLLED_FAULT plus a fault's code; `value` is the bytes moved, or the fault's detail. */
struct alknet_polled {
    uint64_t status;
    uint64_t value;
};
_Static_assert(offsetof(alknet_polled, status) == 0, "alknet_polled.status");
_Static_assert(offsetof(alknet_polled, value) == 8, "alknet_polled.value");
_Static_assert(sizeof(alknet_polled) == 16, "alknet_polled");

/* The half of a stream that this side writes. Dropping it before `finish` resets the
 * stream. One call at a time, but `poll_stopped` may wait beside the others. */
struct alknet_send_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint64_t (*id)(void *data);
    alknet_polled (*poll_write)(void *data, const alknet_waker *waker, const uint8_t *bytes, size_t len);
    alknet_polled (*poll_flush)(void *data, const alknet_waker *waker);
    alknet_polled (*finish)(void *data);
    void (*reset)(void *data, uint64_t code);
    alknet_polled (*poll_stopped)(void *data, const alknet_waker *waker);
    void (*set_priority)(void *data, int32_t priority);
    uint32_t (*last_fault)(void *data, alknet_fault *fault);
};
#define ALKNET_SEND_TABLE_FIELDS UINT64_C(0x1ff)
_Static_assert(offsetof(alknet_send_table, drop) == 16, "alknet_send_table.drop");
_Static_assert(offsetof(alknet_send_table, id) == 24, "alknet_send_table.id");
_Static_assert(offsetof(alknet_send_table, poll_write) == 32, "alknet_send_table.poll_write");
_Static_assert(offsetof(alknet_send_table, poll_flush) == 40, "alknet_send_table.poll_flush");
_Static_assert(offsetof(alknet_send_table, finish) == 48, "alknet_send_table.finish");
_Static_assert(offsetof(alknet_send_table, reset) == 56, "alknet_send_table.reset");
_Static_assert(offsetof(alknet_send_table, poll_stopped) == 64, "alknet_send_table.poll_stopped");
_Static_assert(offsetof(alknet_send_table, set_priority) == 72, "alknet_send_table.set_priority");
_Static_assert(offsetof(alknet_send_table, last_fault) == 80, "alknet_send_table.last_fault");

struct alknet_send {
    void *data;
    const alknet_send_table *table;
};
_Static_assert(offsetof(alknet_send, data) == 0, "alknet_send.data");
_Static_assert(offsetof(alknet_send, table) == 8, "alknet_send.table");
_Static_assert(sizeof(alknet_send) == 16, "alknet_send");

/* The half of a stream that this side reads. `poll_read` is ready with 0 bytes at the end. */
struct alknet_recv_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint64_t (*id)(void *data);
    alknet_polled (*poll_read)(void *data, const alknet_waker *waker, uint8_t *into, size_t len);
    void (*stop)(void *data, uint64_t code);
    uint32_t (*last_fault)(void *data, alknet_fault *fault);
};
#define ALKNET_RECV_TABLE_FIELDS UINT64_C(0x1f)
_Static_assert(offsetof(alknet_recv_table, drop) == 16, "alknet_recv_table.drop");
_Static_assert(offsetof(alknet_recv_table, id) == 24, "alknet_recv_table.id");
_Static_assert(offsetof(alknet_recv_table, poll_read) == 32, "alknet_recv_table.poll_read");
_Static_assert(offsetof(alknet_recv_table, stop) == 40, "alknet_recv_table.stop");
_Static_assert(offsetof(alknet_recv_table, last_fault) == 48, "alknet_recv_table.last_fault");

struct alknet_recv {
    void *data;
    const alknet_recv_table *table;
};
_Static_assert(offsetof(alknet_recv, data) == 0, "alknet_recv.data");
_Static_assert(offsetof(alknet_recv, table) == 8, "alknet_recv.table");
_Static_assert(sizeof(alknet_recv) == 16, "alknet_recv");

/* Both directions of a bidirectional stream. */
struct alknet_halves {
    alknet_send send;
    alknet_recv recv;
};
_Static_assert(offsetof(alknet_halves, send) == 0, "alknet_halves.send");
_Static_assert(offsetof(alknet_halves, recv) == 16, "alknet_halves.recv");
_Static_assert(sizeof(alknet_halves) == 32, "alknet_halves");

struct alknet_halves_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_halves *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_halves_task, data) == 0, "alknet_halves_task.data");
_Static_assert(offsetof(alknet_halves_task, poll) == 8, "alknet_halves_task.poll");
_Static_assert(offsetof(alknet_halves_task, drop) == 16, "alknet_halves_task.drop");
_Static_assert(sizeof(alknet_halves_task) == 24, "alknet_halves_task");

struct alknet_recv_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_recv *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_recv_task, data) == 0, "alknet_recv_task.data");
_Static_assert(offsetof(alknet_recv_task, poll) == 8, "alknet_recv_task.poll");
_Static_assert(offsetof(alknet_recv_task, drop) == 16, "alknet_recv_task.drop");
_Static_assert(sizeof(alknet_recv_task) == 24, "alknet_recv_task");

struct alknet_send_task {
    void *data;
    uint32_t (*poll)(void *data, const alknet_waker *waker, alknet_send *out, alknet_fault *fault);
    void (*drop)(void *data);
};
_Static_assert(offsetof(alknet_send_task, data) == 0, "alknet_send_task.data");
_Static_assert(offsetof(alknet_send_task, poll) == 8, "alknet_send_task.poll");
_Static_assert(offsetof(alknet_send_task, drop) == 16, "alknet_send_task.drop");
_Static_assert(sizeof(alknet_send_task) == 24, "alknet_send_task");

/* Counters since the connection's start; `rtt` in nanoseconds. */
struct alknet_stats {
    uint64_t rtt;
    uint64_t bytes_sent;
    uint64_t bytes_received;
    uint64_t packets_lost;
    uint64_t mtu;
};
_Static_assert(offsetof(alknet_stats, rtt) == 0, "alknet_stats.rtt");
_Static_assert(offsetof(alknet_stats, bytes_sent) == 8, "alknet_stats.bytes_sent");
_Static_assert(offsetof(alknet_stats, bytes_received) == 16, "alknet_stats.bytes_received");
_Static_assert(offsetof(alknet_stats, packets_lost) == 24, "alknet_stats.packets_lost");
_Static_assert(offsetof(alknet_stats, mtu) == 32, "alknet_stats.mtu");
_Static_assert(sizeof(alknet_stats) == 40, "alknet_stats");

/* A connection. The information, the identity and what `closed` gives are JSON. */
struct alknet_connection_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*info)(void *data, alknet_blob *out, alknet_fault *fault);
    uint32_t (*accept_bi)(void *data, alknet_halves_task *out, alknet_fault *fault);
    uint32_t (*open_bi)(void *data, alknet_halves_task *out, alknet_fault *fault);
    uint32_t (*accept_uni)(void *data, alknet_recv_task *out, alknet_fault *fault);
    uint32_t (*open_uni)(void *data, alknet_send_task *out, alknet_fault *fault);
    uint32_t (*send_datagram)(void *data, alknet_blob bytes, alknet_unit *out, alknet_fault *fault);
    uint32_t (*read_datagram)(void *data, alknet_blob_task *out, alknet_fault *fault);
    uint32_t (*max_datagram_size)(void *data, uint64_t *out, alknet_fault *fault);
    void (*close)(void *data, uint64_t code, alknet_slice reason);
    uint32_t (*closed)(void *data, alknet_blob_task *out, alknet_fault *fault);
    uint32_t (*shutdown)(void *data, alknet_unit_task *out, alknet_fault *fault);
    uint32_t (*stats)(void *data, alknet_stats *out, alknet_fault *fault);
    uint32_t (*set_identity)(void *data, alknet_slice identity, alknet_unit *out, alknet_fault *fault);
    uint32_t (*identity)(void *data, alknet_blob *out, alknet_fault *fault);
};
#define ALKNET_CONNECTION_TABLE_FIELDS UINT64_C(0x7fff)
_Static_assert(offsetof(alknet_connection_table, drop) == 16, "alknet_connection_table.drop");
_Static_assert(offsetof(alknet_connection_table, info) == 24, "alknet_connection_table.info");
_Static_assert(offsetof(alknet_connection_table, accept_bi) == 32, "alknet_connection_table.accept_bi");
_Static_assert(offsetof(alknet_connection_table, open_bi) == 40, "alknet_connection_table.open_bi");
_Static_assert(offsetof(alknet_connection_table, accept_uni) == 48, "alknet_connection_table.accept_uni");
_Static_assert(offsetof(alknet_connection_table, open_uni) == 56, "alknet_connection_table.open_uni");
_Static_assert(offsetof(alknet_connection_table, send_datagram) == 64, "alknet_connection_table.send_datagram");
_Static_assert(offsetof(alknet_connection_table, read_datagram) == 72, "alknet_connection_table.read_datagram");
_Static_assert(offsetof(alknet_connection_table, max_datagram_size) == 80, "alknet_connection_table.max_datagram_size");
_Static_assert(offsetof(alknet_connection_table, close) == 88, "alknet_connection_table.close");
_Static_assert(offsetof(alknet_connection_table, closed) == 96, "alknet_connection_table.closed");
_Static_assert(offsetof(alknet_connection_table, shutdown) == 104, "alknet_connection_table.shutdown");
_Static_assert(offsetof(alknet_connection_table, stats) == 112, "alknet_connection_table.stats");
_Static_assert(offsetof(alknet_connection_table, set_identity) == 120, "alknet_connection_table.set_identity");
_Static_assert(offsetof(alknet_connection_table, identity) == 128, "alknet_connection_table.identity");

struct alknet_connection {
    void *data;
    const alknet_connection_table *table;
};
_Static_assert(offsetof(alknet_connection, data) == 0, "alknet_connection.data");
_Static_assert(offsetof(alknet_connection, table) == 8, "alknet_connection.table");
_Static_assert(sizeof(alknet_connection) == 16, "alknet_connection");

/* The call being answered. `info` gives JSON, `remaining` nanoseconds or ALKNET_NONE. */
struct alknet_context_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*info)(void *data, alknet_blob *out, alknet_fault *fault);
    uint32_t (*remaining)(void *data, uint64_t *out, alknet_fault *fault);
    uint32_t (*is_cancelled)(void *data);
    uint32_t (*cancelled)(void *data, alknet_unit_task *out, alknet_fault *fault);
    uint32_t (*env)(void *data, alknet_env *out, alknet_fault *fault);
    uint32_t (*capability)(void *data, alknet_slice name, alknet_capability *out, alknet_fault *fault);
    /* Not in every minor version: see ALKNET_HAS. */
    uint32_t (*ownership)(void *data, alknet_slice request, alknet_blob_task *out, alknet_fault *fault);
};
#define ALKNET_CONTEXT_OWNERSHIP 7
#define ALKNET_CONTEXT_TABLE_FIELDS UINT64_C(0xff)
_Static_assert(offsetof(alknet_context_table, drop) == 16, "alknet_context_table.drop");
_Static_assert(offsetof(alknet_context_table, info) == 24, "alknet_context_table.info");
_Static_assert(offsetof(alknet_context_table, remaining) == 32, "alknet_context_table.remaining");
_Static_assert(offsetof(alknet_context_table, is_cancelled) == 40, "alknet_context_table.is_cancelled");
_Static_assert(offsetof(alknet_context_table, cancelled) == 48, "alknet_context_table.cancelled");
_Static_assert(offsetof(alknet_context_table, env) == 56, "alknet_context_table.env");
_Static_assert(offsetof(alknet_context_table, capability) == 64, "alknet_context_table.capability");
_Static_assert(offsetof(alknet_context_table, ownership) == 72, "alknet_context_table.ownership");

struct alknet_context {
    void *data;
    const alknet_context_table *table;
};
_Static_assert(offsetof(alknet_context, data) == 0, "alknet_context.data");
_Static_assert(offsetof(alknet_context, table) == 8, "alknet_context.table");
_Static_assert(sizeof(alknet_context) == 16, "alknet_context");

/* A plugin that has been built. Handlers and operations go by their position in the
 * manifest. `call` may answer at once (ALKNET_READY, `out`), or give a task
 * (ALKNET_PENDING, `task`) after it has passed the waker on. What is passed by value
 * belongs to the callee, also when it fails. */
struct alknet_plugin_table {
    uint64_t fields;
    const void *reserved;
    void (*drop)(void *data);
    uint32_t (*handle)(void *data, uint32_t index, alknet_connection connection, alknet_slice auth, alknet_unit_task *out, alknet_fault *fault);
    uint32_t (*call)(void *data, uint32_t index, alknet_context context, alknet_blob input, const alknet_waker *waker, alknet_blob *out, alknet_blob_task *task, alknet_fault *fault);
    uint32_t (*subscribe)(void *data, uint32_t index, alknet_context context, alknet_blob input, alknet_blob_task *out, alknet_fault *fault);
};
#define ALKNET_PLUGIN_TABLE_FIELDS UINT64_C(0xf)
_Static_assert(offsetof(alknet_plugin_table, drop) == 16, "alknet_plugin_table.drop");
_Static_assert(offsetof(alknet_plugin_table, handle) == 24, "alknet_plugin_table.handle");
_Static_assert(offsetof(alknet_plugin_table, call) == 32, "alknet_plugin_table.call");
_Static_assert(offsetof(alknet_plugin_table, subscribe) == 40, "alknet_plugin_table.subscribe");

struct alknet_plugin {
    void *data;
    const alknet_plugin_table *table;
};
_Static_assert(offsetof(alknet_plugin, data) == 0, "alknet_plugin.data");
_Static_assert(offsetof(alknet_plugin, table) == 8, "alknet_plugin.table");
_Static_assert(sizeof(alknet_plugin) == 16, "alknet_plugin");

/* A plugin's functions. `manifest` gives JSON; `build` gets the configuration as JSON. */
struct alknet_module_table {
    uint64_t fields;
    const void *reserved;
    uint32_t (*manifest)(alknet_blob *out, alknet_fault *fault);
    uint32_t (*build)(alknet_host host, alknet_slice config, alknet_plugin *out, alknet_fault *fault);
};
#define ALKNET_MODULE_TABLE_FIELDS UINT64_C(0x3)
_Static_assert(offsetof(alknet_module_table, manifest) == 16, "alknet_module_table.manifest");
_Static_assert(offsetof(alknet_module_table, build) == 24, "alknet_module_table.build");

/* Whether the other side's table has a function that came in a later minor version. */
#define ALKNET_HAS(table, field) (((table)->fields >> (field)) & 1)

/* What a plugin exports. */
typedef struct alknet_header {
    uint8_t magic[16];
    uint32_t api_major;
    uint32_t api_minor;
    char fingerprint[64];
    const alknet_module_table *module;
    alknet_slice build_info;
} alknet_header;

_Static_assert(sizeof(alknet_header) == 112, "alknet_header");
_Static_assert(offsetof(alknet_header, module) == 88, "alknet_header.module");

/* For `reserved` in the plugin's tables. */
static const uint64_t alknet_reserved[16] = { 0 };

/* Exports the plugin: `ALKNET_EXPORT(&table)`, once. */
#define ALKNET_EXPORT(table)                                                             \
    __attribute__((visibility("default"), used))                                         \
    const alknet_header alknet_plugin_c_header_1 = {                                     \
        { 'a', 'l', 'k', 'n', 'e', 't', ' ', 'p', 'l', 'u', 'g', 'i', 'n', 0, 13, 10 },  \
        ALKNET_API_MAJOR,                                                                \
        ALKNET_API_MINOR,                                                                \
        ALKNET_FINGERPRINT,                                                              \
        table,                                                                           \
        { (const uint8_t *)"C, " __VERSION__, sizeof("C, " __VERSION__) - 1 },           \
    }

/* A text, lent. */
static inline alknet_slice alknet_text(const char *text) {
    alknet_slice slice = { (const uint8_t *)text, strlen(text) };
    return slice;
}

/* No labels and no fields. */
static inline alknet_pairs alknet_no_pairs(void) {
    alknet_pairs none = { NULL, 0 };
    return none;
}

/* Constant bytes, which nobody releases. */
static inline alknet_blob alknet_constant(const void *bytes, size_t len) {
    alknet_blob blob = { (const uint8_t *)bytes, len, NULL, NULL };
    return blob;
}

/* Takes over bytes that `malloc` gave. */
static inline alknet_blob alknet_own(void *bytes, size_t len) {
    alknet_blob blob = { (const uint8_t *)bytes, len, bytes, free };
    return blob;
}

/* Gives a blob back. */
static inline void alknet_release(alknet_blob blob) {
    if (blob.release != NULL) {
        blob.release(blob.owner);
    }
}

/* Writes a fault with a constant text, and returns ALKNET_FAULT. For ALKNET_FAULT_CALL
 * the text is JSON: {"code":"..","message":"..","retryable":false}. */
static inline uint32_t alknet_fail(alknet_fault *fault, uint32_t code, const char *text) {
    fault->code = code;
    fault->detail = 0;
    fault->extra = 0;
    fault->text = alknet_constant(text, strlen(text));
    return ALKNET_FAULT;
}

#endif
