//! The vectors of `docs/protocol/vectors/`, by which other implementations are tried,
//! too. The README there tells what they mean.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use alknet_call_protocol::envelope::{self, Event};
use alknet_call_protocol::frame::{DEFAULT_MAX_FRAME, FrameDecoder};
use alknet_call_protocol::{ALPN, CallConnection};
use alknet_plugin_api::testing::pair;
use alknet_plugin_api::{AbortPolicy, CallError, Connection};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::peer::{Peer, framed, options, run, server};

/// A file's vectors, each with its name.
fn vectors(file: &str, at_least: usize) -> Vec<(String, Value)> {
    let path = format!("{}/../../../docs/protocol/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut parsed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let Value::Array(all) = parsed["vectors"].take() else { panic!("{file} has no vectors") };
    assert!(all.len() >= at_least, "{file} has only {} vectors", all.len());
    all.into_iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one)).collect()
}

fn hex(text: &str) -> Bytes {
    let digits: Vec<_> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn meaning(content: &Bytes) -> Value {
    let Ok(envelope) = envelope::parse(content) else {
        return json!({"event": "reset", "code": 2});
    };
    let mut told = match envelope.event {
        Event::Unknown => return json!({"event": "ignored"}),
        Event::Requested(Err(error)) => json!({"event": "refused", "code": error.code}),
        Event::Requested(Ok(request)) => {
            let mut told = json!({"event": "requested", "operation": request.operation,
                "input": request.input.to::<Value>().unwrap()});
            if let Some(token) = request.auth_token {
                told["auth_token"] = token.into();
            }
            if let Some(timeout) = request.timeout {
                told["timeout_ms"] = (timeout.as_millis() as u64).into();
            }
            if !request.forwarded_for.is_empty() {
                told["forwarded_for"] = request.forwarded_for.into_iter().map(|i| i.id).collect();
            }
            told
        }
        Event::Responded { output, terminal } => {
            let mut told = json!({"event": "responded", "output": output.to::<Value>().unwrap()});
            if terminal {
                told["terminal"] = true.into();
            }
            told
        }
        Event::Completed => json!({"event": "completed"}),
        Event::Aborted { policy, reason } => {
            let policy = match policy {
                AbortPolicy::AbortDependents => "abort-dependents",
                AbortPolicy::ContinueRunning => "continue-running",
            };
            let mut told = json!({"event": "aborted", "policy": policy});
            if let Some(reason) = reason {
                told["reason"] = reason.into();
            }
            told
        }
        Event::Error(error) => {
            let mut told = json!(error);
            told["event"] = "error".into();
            told
        }
        // Whoever waits for the answer gets this.
        Event::Unparsable(_) => json!({"event": "error", "code": "INTERNAL", "retryable": false}),
        event => panic!("{event:?} has no vectors"),
    };
    told["id"] = envelope.id.into();
    told
}

#[test]
fn envelopes_mean_what_the_vectors_say() {
    for (name, vector) in vectors("envelopes.json", 50) {
        let content = match vector["text"].as_str() {
            Some(text) => Bytes::from(text.to_owned()),
            None => hex(vector["hex"].as_str().unwrap()),
        };
        assert_eq!(meaning(&content), vector["means"], "{name}");
    }
}

#[test]
fn frames_hold_what_the_vectors_say() {
    for (name, vector) in vectors("frames.json", 12) {
        let data = hex(vector["hex"].as_str().unwrap());
        let limit = vector["limit"].as_u64().map_or(DEFAULT_MAX_FRAME, |limit| limit as usize);
        for step in [data.len().max(1), 1] {
            let mut decoder = FrameDecoder::new(limit);
            let (mut frames, mut good) = (Vec::new(), true);
            for chunk in data.chunks(step) {
                decoder.buffer().extend_from_slice(chunk);
                while good {
                    match decoder.next_frame() {
                        Ok(Some(frame)) => frames.push(String::from_utf8(frame.to_vec()).unwrap()),
                        Ok(None) => break,
                        Err(_) => good = false,
                    }
                }
            }
            let end = if good && decoder.finish().is_ok() { "clean" } else { "BAD_FRAME" };
            assert_eq!(
                (json!(frames), end),
                (vector["frames"].clone(), vector["end"].as_str().unwrap()),
                "{name}, {step} bytes at a time"
            );
        }
    }
}

/// Whether an envelope has what is expected of it, and maybe more in its payload.
fn has(got: &Value, expected: &Value) -> bool {
    let payload = expected["payload"].as_object().unwrap();
    got["type"] == expected["type"]
        && got["id"] == expected["id"]
        && payload.iter().all(|(key, value)| got["payload"].get(key) == Some(value))
}

/// The vector's side of a connection.
#[derive(Default)]
struct Script {
    streams: HashMap<u64, Peer>,
    /// Streams whose calls are only about schemas.
    aside: Vec<Peer>,
    /// What `$id` stands for.
    id: Option<String>,
}

impl Script {
    async fn step(&mut self, connection: &Connection, step: &Value) {
        let n = step["stream"].as_u64().unwrap();
        if let Some(expected) = step.get("expect") {
            let first = match self.streams.contains_key(&n) {
                true => None,
                false => Some(self.accept(connection, n).await),
            };
            let got = match first {
                Some(got) => got,
                None => self.streams.get_mut(&n).unwrap().next().await.unwrap(),
            };
            if self.id.is_none() && expected["id"] == "$id" {
                self.id = Some(got["id"].as_str().unwrap().to_owned());
            }
            let expected = self.named(expected);
            assert!(has(&got, &expected), "{got} came in place of {expected}");
            return;
        }
        let envelope = step.get("send").map(|envelope| self.named(envelope));
        let peer = match self.streams.entry(n) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(Peer::open(connection).await),
        };
        if let Some(envelope) = envelope {
            peer.write(envelope).await;
        } else if let Some(bytes) = step["bytes"].as_str() {
            peer.send.write_all(&hex(bytes)).await.unwrap();
        } else if step["finish"] == true {
            peer.send.finish().unwrap();
        } else if let Some(code) = step["break"].as_u64() {
            peer.send.reset(code);
        } else if let Some(code) = step["reset"].as_u64() {
            assert_eq!(self.streams.remove(&n).unwrap().reset().await, code);
        } else {
            assert_eq!(step["end"], true, "{step} is no step");
            assert_eq!(peer.next().await, None);
        }
    }

    /// The next stream on which the vector's operation is asked for.
    async fn accept(&mut self, connection: &Connection, n: u64) -> Value {
        loop {
            let mut peer = Peer::accept(connection).await;
            let got = peer.next().await.unwrap();
            if got["payload"]["operationId"] != "/services/schema" {
                self.streams.insert(n, peer);
                return got;
            }
            let output = json!({"op_type": "subscription"});
            let answer = json!({"type": "call.responded", "id": got["id"],
                "payload": {"output": output}});
            peer.send.write_all(&framed(answer.to_string())).await.unwrap();
            self.aside.push(peer);
        }
    }

    fn named(&self, envelope: &Value) -> Value {
        let mut envelope = envelope.clone();
        if envelope["id"] == "$id" {
            envelope["id"] = self.id.clone().into();
        }
        envelope
    }
}

async fn in_time<F: Future>(name: &str, work: F) -> F::Output {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{name} has no end"))
}

#[tokio::test]
async fn a_responder_does_what_the_vectors_say() {
    for (name, vector) in vectors("responder.json", 15) {
        let connection = server(options());
        let mut script = Script::default();
        for step in vector["steps"].as_array().unwrap() {
            in_time(&format!("{name}: {step}"), script.step(&connection, step)).await;
        }
    }
}

/// What the caller of a vector is told in the end.
async fn told(client: &CallConnection, vector: &Value) -> Value {
    let error = |error: CallError| json!(error);
    if let Some(call) = vector.get("call") {
        let operation = call["operation"].as_str().unwrap();
        return match client.call(operation, call["input"].clone()).await {
            Ok(output) => json!({"output": output.to::<Value>().unwrap()}),
            Err(failed) => json!({"error": error(failed)}),
        };
    }
    let call = &vector["subscribe"];
    let operation = call["operation"].as_str().unwrap();
    let mut subscription = client.subscribe(operation, call["input"].clone()).await.unwrap();
    let mut told = json!({"items": []});
    while let Some(item) = subscription.next().await {
        match item {
            Ok(item) => told["items"].as_array_mut().unwrap().push(item.to().unwrap()),
            Err(failed) => told["error"] = error(failed),
        }
    }
    told
}

#[tokio::test]
async fn a_caller_is_told_what_the_vectors_say() {
    for (name, vector) in vectors("caller.json", 15) {
        let (near, far) = pair(ALPN);
        let client = run(near, options());
        let play = async {
            let mut script = Script::default();
            for step in vector["steps"].as_array().unwrap() {
                script.step(&far, step).await;
            }
            script
        };
        let both = async { tokio::join!(told(&client, &vector), play) };
        let (mut told, _script) = in_time(&name, both).await;
        // Of an error, what the vector says; messages may be others'.
        let expected = &vector["result"];
        if let (Some(got), Some(expected)) =
            (told.get_mut("error").and_then(Value::as_object_mut), expected["error"].as_object())
        {
            got.retain(|key, _| expected.contains_key(key));
        }
        assert_eq!(&told, expected, "{name}");
    }
}
