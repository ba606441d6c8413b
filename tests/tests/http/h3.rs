//! HTTP/3, as aioquic meets it.

use super::*;
use alknet_tests::service::python_program;
use sha2::Digest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// A connection of aioquic's, told what to do line by line.
pub(super) struct H3 {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl H3 {
    pub(super) async fn connect(site: &Site) -> Self {
        Self::connect_as(site, &[]).await
    }

    /// With a certificate of its own, and its key, in files.
    async fn connect_as(site: &Site, identity: &[&str]) -> Self {
        let certificate = site.certificate();
        let port = site.listen().port().to_string();
        let arguments = [&[&*port, certificate.to_str().unwrap()], identity].concat();
        let mut command = python_program("h3_client.py", &arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut client = Self { child, commands, answers };
        assert_eq!(client.next().await, json!({ "connected": true }));
        client
    }

    async fn next(&mut self) -> Value {
        if let Some(line) = within(self.answers.next_line()).await.unwrap() {
            return serde_json::from_str(&line).unwrap();
        }
        let mut complaint = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut complaint).await.unwrap();
        panic!("the client has ended: {complaint}")
    }

    pub(super) async fn tell(&mut self, mut command: Value, what: &str) -> Value {
        command["do"] = what.into();
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.next().await
    }

    /// Begins a request and gives its stream.
    pub(super) async fn begin(&mut self, request: Value) -> u64 {
        self.tell(request, "request").await["stream"].as_u64().unwrap()
    }

    pub(super) async fn answer(&mut self, stream: u64) -> Value {
        self.tell(json!({ "stream": stream }), "answer").await
    }

    async fn get(&mut self, path: &str) -> Value {
        let stream = self.begin(json!({ "path": path })).await;
        self.answer(stream).await
    }

    async fn call(&mut self, operation: &str, input: Value, headers: Value) -> Value {
        let mut headers = headers;
        headers.as_array_mut().unwrap().push(json!(["content-type", "application/json"]));
        let body = json!({ "operation": operation, "input": input }).to_string();
        let request =
            json!({ "method": "POST", "path": "/call", "headers": headers, "body": body });
        let stream = self.begin(request).await;
        self.answer(stream).await
    }
}

fn body(answer: &Value) -> Value {
    serde_json::from_str(answer["body"].as_str().unwrap())
        .unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn refused(answer: &Value, status: u16, code: &str) {
    assert_eq!(answer["status"], status, "{answer}");
    assert_eq!(answer["headers"]["content-type"], "application/problem+json");
    assert_eq!(body(answer)["code"], code);
}

#[tokio::test]
async fn the_same_is_served_as_over_the_other_versions() {
    let (node, tcp) = folder("front_page = \"page.html\"");
    node.write("page.html", "<h1>hi</h1>");
    node.replace("node.toml", "\"page.html\"", &format!("{:?}", node.file("page.html")));
    let site = start(node, tcp).await;
    let mut client = H3::connect(&site).await;

    let healthy = client.get("/healthz").await;
    assert_eq!((&healthy["status"], body(&healthy)), (&json!(200), json!({ "status": "ok" })));
    assert!(healthy["headers"]["date"].as_str().unwrap().ends_with(" GMT"));
    assert_eq!(healthy["headers"]["x-content-type-options"], "nosniff");
    assert_eq!(healthy["headers"]["alt-svc"], Value::Null);
    let page = client.get("/").await;
    assert_eq!((&page["status"], &page["body"]), (&json!(200), &json!("<h1>hi</h1>")));

    let said = client.call("echo/say", json!({ "text": "hi" }), json!([])).await;
    assert_eq!((&said["status"], &body(&said)["text"]), (&json!(200), &json!("hi")));
    let found = client.get("/search?q=reverse").await;
    assert_eq!(body(&found)["operations"][0]["name"], "echo/reverse");
    let document = client.get("/openapi.json").await;
    assert!(body(&document)["paths"]["/call"].is_object());
    refused(&client.get("/none").await, 404, "NOT_FOUND");
    refused(&client.get("/call").await, 405, "INVALID_INPUT");

    // A token holds for its request.
    let token = json!([["authorization", format!("Bearer {INNER}")]]);
    let inner = client.call("native/inner", json!({}), token).await;
    assert_eq!(inner["status"], 200, "{inner}");
    refused(&client.call("native/inner", json!({}), json!([])).await, 401, "FORBIDDEN");
    let wrong = json!([["authorization", "Bearer nonsense"]]);
    refused(&client.call("echo/say", json!({ "text": "" }), wrong).await, 401, "FORBIDDEN");
    let other = json!([["origin", "https://evil.example"]]);
    refused(&client.call("echo/say", json!({ "text": "" }), other).await, 403, "FORBIDDEN");

    let path = "/subscribe?operation=native/count&input=3";
    let counted = client.get(path).await;
    assert_eq!(counted["headers"]["content-type"], "text/event-stream");
    let text = counted["body"].as_str().unwrap();
    let end = "data: 1\n\ndata: 2\n\nevent: completed\ndata: {}\n\n";
    assert!(text.contains("data: 0\n\n") && text.ends_with(end), "{text}");

    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    let headers = json!([
        ["content-type", "application/json"],
        ["accept", "application/json, text/event-stream"],
    ]);
    let tools = json!({
        "method": "POST", "path": "/mcp", "headers": headers, "body": body.to_string(),
    });
    let tools = client.begin(tools).await;
    let tools = client.answer(tools).await;
    assert_eq!(tools["status"], 200, "{tools}");
    assert!(tools["body"].as_str().unwrap().contains("\"batch\""), "{tools}");
}

#[tokio::test]
async fn a_clients_certificate_says_who_calls() {
    let (node, tcp) = folder("");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["client.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let fingerprint = sha2::Sha256::digest(certificate.der());
    let fingerprint = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let peer = format!(
        "\n[[peer]]\npeer_id = \"browser\"\nfingerprints = [\"SHA256:{fingerprint}\"]\n\
         scopes = [\"inner\"]\n"
    );
    node.append("access.toml", &peer);
    node.write("browser.pem", &certificate.pem());
    node.write("browser-key.pem", &key.serialize_pem());
    let identity = [node.file("browser.pem"), node.file("browser-key.pem")];
    let site = start(node, tcp).await;
    let identity = identity.each_ref().map(|file| file.to_str().unwrap());
    let mut client = H3::connect_as(&site, &identity).await;
    let who = client.call("services/whoami", json!({}), json!([])).await;
    assert_eq!(body(&who)["identity"]["id"], "browser", "{who}");
    let inner = client.call("native/inner", json!({}), json!([])).await;
    assert_eq!(inner["status"], 200, "{inner}");
}

#[tokio::test]
async fn a_hundred_requests_run_at_a_time_and_large_answers_come_whole() {
    let site = site("body_bytes = 4194304").await;
    let mut client = H3::connect(&site).await;
    let body = json!({ "operation": "echo/say", "input": { "text": "x" } }).to_string();
    let many = client.tell(json!({ "count": 100, "body": body }), "many").await;
    assert_eq!(many["statuses"], json!(vec![200; 100]));

    let text = "0123456789".repeat(90_000);
    let body = json!({ "operation": "echo/say", "input": { "text": text } }).to_string();
    let (first, second) = body.split_at(400_000);
    let headers = json!([["content-type", "application/json"]]);
    let request = json!({
        "method": "POST", "path": "/call", "headers": headers, "body": first, "end": false,
    });
    let stream = client.begin(request).await;
    client.tell(json!({ "stream": stream, "body": second }), "data").await;
    let trailers = json!({ "stream": stream, "headers": [["x-checked", "yes"]] });
    client.tell(trailers, "trailers").await;
    let said = client.answer(stream).await;
    assert_eq!((&said["status"], &self::body(&said)["text"]), (&json!(200), &json!(text)));
}

#[tokio::test]
async fn c47_c50_a_client_that_gives_up_or_goes_away_aborts_its_call() {
    let site = site("").await;
    let watcher = site.client().await;
    let mut client = H3::connect(&site).await;
    let request = json!({
        "method": "POST", "path": "/call", "headers": [["content-type", "application/json"]],
        "body": r#"{"operation":"native/wait","input":{}}"#,
    });
    let stream = client.begin(request.clone()).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    client.tell(json!({ "stream": stream, "code": 0x10c }), "stop").await;
    in_flight_becomes(&watcher, "native/wait", 0).await;

    let path = "/subscribe?operation=native/count&input=null";
    let stream = client.begin(json!({ "path": path })).await;
    client.tell(json!({ "stream": stream, "text": "data: 1000\n" }), "text").await;
    in_flight_becomes(&watcher, "native/count", 1).await;
    client.tell(json!({ "stream": stream, "code": 0x10c }), "stop").await;
    in_flight_becomes(&watcher, "native/count", 0).await;

    // Its body breaks off, so that there is no call.
    let mut unfinished = request.clone();
    unfinished["end"] = false.into();
    let stream = client.begin(unfinished).await;
    client.tell(json!({ "stream": stream, "code": 0x10c }), "reset").await;
    let answer = client.answer(stream).await;
    assert!(answer["reset"] == 0x10c || answer["status"] == 400, "{answer}");

    client.begin(request).await;
    in_flight_becomes(&watcher, "native/wait", 1).await;
    client.tell(json!({}), "close").await;
    in_flight_becomes(&watcher, "native/wait", 0).await;
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let limits = "body_bytes = 2048, body_timeout_ms = 500, header_timeout_ms = 1000";
    let site = site(limits).await;
    let mut client = H3::connect(&site).await;
    let large = json!({ "text": "a".repeat(4096) });
    refused(&client.call("echo/say", large.clone(), json!([])).await, 413, "INVALID_INPUT");
    let headers = json!([["content-type", "application/json"], ["content-length", "100000"]]);
    let request = json!({
        "method": "POST", "path": "/call", "headers": headers, "body": "{", "end": false,
    });
    let stream = client.begin(request).await;
    refused(&client.answer(stream).await, 413, "INVALID_INPUT");
    let slow = json!({
        "method": "POST", "path": "/call", "headers": [["content-type", "application/json"]],
        "body": "{", "end": false,
    });
    let stream = client.begin(slow).await;
    refused(&client.answer(stream).await, 408, "TIMEOUT");
    // Less than the header says, and more.
    for length in ["2000", "1"] {
        let headers = json!([["content-type", "application/json"], ["content-length", length]]);
        let request =
            json!({ "method": "POST", "path": "/call", "headers": headers, "body": "{}" });
        let stream = client.begin(request).await;
        refused(&client.answer(stream).await, 400, "INVALID_INPUT");
    }

    for (times, status) in [(7, json!(431)), (100, Value::Null)] {
        let headers = json!(vec![["x-long", &"y".repeat(3_000)]; times]);
        let stream = client.begin(json!({ "path": "/healthz", "headers": headers })).await;
        let answer = client.answer(stream).await;
        assert_eq!(answer["status"], status, "{answer}");
        if status.is_null() {
            assert_eq!(answer["reset"], 0x107, "{answer}");
        }
    }
    // A head that does not end, and one that is none.
    for bytes in ["01", "0140ff0000d1"] {
        let stream = client.tell(json!({ "bytes": bytes }), "raw").await["stream"].clone();
        let answer = client.answer(stream.as_u64().unwrap()).await;
        assert_eq!(answer["reset"], 0x10d, "{answer}");
    }
    assert_eq!(client.get("/healthz").await["status"], 200);
}

#[tokio::test]
async fn what_is_no_http3_ends_its_connection_with_a_code_and_nothing_else() {
    let site = site("header_timeout_ms = 1000").await;
    let mut other = H3::connect(&site).await;
    for (command, how, code) in [
        // Data before a head.
        (json!({ "bytes": "000548656c6c6f" }), "raw", 0x105),
        // A frame of HTTP/2.
        (json!({ "bytes": "0600" }), "raw", 0x105),
        // Settings where a request is.
        (json!({ "bytes": "0400" }), "raw", 0x105),
        // A head that QPACK cannot have made.
        (json!({ "bytes": "0104ffffffff" }), "raw", 0x200),
        // A head that is not there in full.
        (json!({ "bytes": "010500", "end": true }), "raw", 0x106),
        // A second stream with settings.
        (json!({ "bytes": "000400", "unidirectional": true }), "raw", 0x103),
        // Settings again.
        (json!({ "bytes": "0400" }), "raw_control", 0x105),
        // A frame that is longer than any of its kind is.
        (json!({ "bytes": "0780100000" }), "raw_control", 0x104),
    ] {
        let mut client = H3::connect(&site).await;
        assert_eq!(client.get("/healthz").await["status"], 200);
        client.tell(command.clone(), how).await;
        let closed = client.tell(json!({}), "terminated").await;
        assert_eq!(closed["code"], code, "{command} {closed}");
        assert_eq!(other.get("/healthz").await["status"], 200);
    }
    // What nobody knows is passed over.
    let mut client = H3::connect(&site).await;
    let unknown = json!({ "bytes": "4e2105deadbeef", "unidirectional": true });
    client.tell(unknown, "raw").await;
    client.tell(json!({ "bytes": "4e2103aabbcc" }), "raw_control").await;
    assert_eq!(client.get("/healthz").await["status"], 200);
    site.client().await.assert_answered().await;
}

#[tokio::test]
async fn malformed_requests_are_given_up_alone() {
    let site = site("").await;
    let mut client = H3::connect(&site).await;
    // Literal fields: `:method: GET` and no more; an upper-case name.
    for bytes in ["01030000d1", "010b0000d1c1d7510401414243"] {
        let stream = client.tell(json!({ "bytes": bytes, "end": true }), "raw").await;
        let answer = client.answer(stream["stream"].as_u64().unwrap()).await;
        assert_eq!(answer["reset"], 0x10e, "{bytes}: {answer}");
    }
    assert_eq!(client.get("/healthz").await["status"], 200);
}

#[tokio::test]
async fn the_other_versions_say_where_http3_is() {
    let (node, tcp) = folder("h3_port = 1");
    let port = node.listen().port();
    node.replace("node.toml", "h3_port = 1", &format!("h3_port = {port}"));
    let site = start(node, tcp).await;
    for flag in ["--http1.1", "--http2"] {
        let told = site.curl("/healthz", &[flag]).await;
        let expected = format!("h3=\":{port}\"; ma=86400");
        assert_eq!(told.header("alt-svc"), Some(&*expected), "{told:?}");
    }
    let mut client = H3::connect(&site).await;
    assert_eq!(client.get("/healthz").await["headers"]["alt-svc"], Value::Null);
    let silent = self::site("").await;
    assert_eq!(silent.curl("/healthz", &[]).await.header("alt-svc"), None);
}

#[tokio::test]
async fn a_node_that_drains_says_goodbye_and_ends_what_it_serves() {
    let (node, tcp) = folder_with(
        "drain_ms = 1000",
        &[("clock", &built().clock), ("native", &built().native_tree)],
    );
    let site = start(node, tcp).await;
    let mut client = H3::connect(&site).await;
    let path = "/subscribe?operation=clock/ticks&input=%7B%22every_ms%22%3A100%7D";
    let subscription = client.begin(json!({ "path": path })).await;
    client.tell(json!({ "stream": subscription, "text": "data: " }), "text").await;
    site.process().signal("TERM").await;
    let away = client.tell(json!({}), "went_away").await;
    assert_eq!(away["goaway"], subscription + 4);
    let late = client.begin(json!({ "path": "/healthz" })).await;
    assert_eq!(late, subscription + 4);
    let late = client.answer(late).await;
    assert_eq!((&late["status"], &late["reset"]), (&Value::Null, &json!(0x10b)));
    let ended = client.answer(subscription).await;
    let text = ended["body"].as_str().unwrap();
    assert!(text.contains("event: failed\ndata: {") && ended["ended"] == true, "it ends cleanly");
    assert_eq!(client.tell(json!({}), "terminated").await["code"], 0x100);
    let (_folder, process) = site.node.into_parts();
    assert_eq!(process.ended().await.status, Some(0));
}
