//! Envoy in memory: a process with its clock, its shared store and its backends; workers; and calls, each
//! with the buffering, routing and retrying that Envoy does around the two stages.
//!
//! It is as unkind as Envoys are: headers that have gone on cannot be changed, a message that is not held
//! cannot be resumed, and a resumed message of which some body was held loses its next piece
//! (envoyproxy/envoy#46841).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aoai_filter::base::header::{ATTEMPTS, BACKEND};
use aoai_filter::config::Config;
use aoai_filter::flow::attempt::{AttemptEvent, AttemptFlow};
use aoai_filter::flow::context::Context;
use aoai_filter::flow::gateway::Gateway;
use aoai_filter::flow::host::{Headers, Host, Stored};
use aoai_filter::flow::measure::{Counter, Gauge, Histogram, LogEntry, LogField};
use aoai_filter::flow::pending::Pending;
use aoai_filter::flow::pool_request::{PoolReference, PoolRequests};
use aoai_filter::flow::request::{Event, RequestFlow};
use aoai_filter::flow::request_buffer::RequestBuffer;
use aoai_filter::flow::step::{Changes, HeaderChange, Message, Step, Then};
use aoai_filter::flow::tokens::SHORTEST_TICK;
use aoai_filter::identity::{CalloutResponse, Request as IdentityRequest};
use aoai_filter::reply::LocalResponse;
use aoai_filter::request::body::edit::BodyEdit;

/// What the route removes from every response, and what it allows of retries.
const REMOVED: [&str; 6] = [
    "x-aoai-attempts",
    "x-aoai-backend",
    "x-aoai-cluster",
    "x-aoai-diagnosis",
    "x-aoai-reason",
    "x-aoai-retry",
];
const MOST_RETRIES: usize = 2;

/// One Envoy: what all of its workers share, and the world around it.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) unresolved: RefCell<Option<String>>,
    since_start: Cell<Duration>,
    store: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    /// So many writes fail, as if another worker had written first.
    pub(crate) failing_writes: Cell<u32>,
    /// Attempts that end without a response have found no connection.
    pub(crate) connections_fail: Cell<bool>,
    /// Before a retry begins, more of the body comes than Envoy keeps.
    pub(crate) retries_overflow: Cell<bool>,
    /// Endpoints of pools say that they are backends that no configuration has.
    pub(crate) renames_backends: Cell<bool>,
    counters: RefCell<BTreeMap<String, u64>>,
    pub(crate) histograms: RefCell<BTreeMap<String, Vec<u64>>>,
    gauges: RefCell<BTreeMap<String, u64>>,
    log: RefCell<Vec<String>>,
    /// Requests to identity endpoints without a response, by worker.
    pub(crate) callouts: RefCell<Vec<(u64, u32, IdentityRequest)>>,
    callouts_made: Cell<u32>,
    pub(crate) fetches_soon: Cell<u32>,
    scripts: RefCell<HashMap<String, VecDeque<Reaction>>>,
    arrived: RefCell<Vec<Rc<RefCell<Arrived>>>>,
    workers: Cell<u64>,
    /// Happens once, after a response was marked for a retry and before that begins.
    pub(crate) before_retry: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// A request as a backend gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) backend: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Headers,
    pub(crate) complete: bool,
}

/// What a backend does with a request, once it has all of it unless it is `early`.
#[derive(Debug, Clone)]
pub(crate) struct Reaction {
    what: What,
    early: bool,
    delay: Duration,
}

#[derive(Debug, Clone)]
enum What {
    Respond(Response),
    Reset,
    Hang,
}

/// A backend's response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    status: u16,
    headers: Headers,
    pieces: Vec<Vec<u8>>,
    /// More of the body follows: [`Call::response_piece`].
    is_open: bool,
    has_trailers: bool,
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn piece(mut self, piece: &[u8]) -> Self {
        self.pieces.push(piece.to_vec());
        self
    }

    pub(crate) fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    pub(crate) fn trailers(self) -> Self {
        Self { has_trailers: true, ..self }
    }
}

impl From<Response> for Reaction {
    fn from(response: Response) -> Self {
        Self { what: What::Respond(response), early: false, delay: Duration::ZERO }
    }
}

impl Reaction {
    /// The connection is reset before there is a response.
    pub(crate) fn reset() -> Self {
        Self { what: What::Reset, early: false, delay: Duration::ZERO }
    }

    /// Nothing: the test goes on by [`Call::respond`] or [`Call::reset`].
    pub(crate) fn hang() -> Self {
        Self { what: What::Hang, early: false, delay: Duration::ZERO }
    }

    /// A status without a body.
    pub(crate) fn status(status: u16) -> Self {
        Response::new(status).into()
    }

    /// A 429 that says when to come back, in milliseconds.
    pub(crate) fn throttled(retry_after_ms: &str) -> Self {
        Response::new(429).header("retry-after-ms", retry_after_ms).into()
    }

    /// At once, however much of the request has come.
    pub(crate) fn early(self) -> Self {
        Self { early: true, ..self }
    }

    /// After so long.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Process {
    pub(crate) fn new() -> Rc<Self> {
        let process = Self::default();
        process.since_start.set(Duration::from_secs(1_000_000));
        Rc::new(process)
    }

    /// June 2025 and a while.
    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_750_000_000 - 1_000_000) + self.since_start.get()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.since_start.set(self.since_start.get() + by);
    }

    pub(crate) fn set_back(&self, by: Duration) {
        self.since_start.set(self.since_start.get().saturating_sub(by));
    }

    /// What a backend does with its next requests; with those after that, it answers 200.
    pub(crate) fn script<R: Into<Reaction>>(
        &self,
        backend: &str,
        reactions: impl IntoIterator<Item = R>,
    ) {
        let mut scripts = self.scripts.borrow_mut();
        let script = scripts.entry(backend.to_owned()).or_default();
        script.extend(reactions.into_iter().map(Into::into));
    }

    fn reaction(&self, backend: &str) -> Reaction {
        let mut scripts = self.scripts.borrow_mut();
        let next = scripts.get_mut(backend).and_then(VecDeque::pop_front);
        next.unwrap_or_else(|| {
            Response::new(200).piece(b"served by ").piece(backend.as_bytes()).into()
        })
    }

    /// The requests that backends have got, in order.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.borrow().iter().map(|one| one.borrow().clone()).collect()
    }

    /// Which backends were asked, in order; what was noted before is forgotten.
    pub(crate) fn asked(&self) -> String {
        let arrived = self.arrived.take();
        let names: Vec<_> = arrived.iter().map(|one| one.borrow().backend.clone()).collect();
        names.join(" ")
    }

    /// The sum of the counters of this name, whatever further labels they have.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let rest = format!("{name}.");
        let counters = self.counters.borrow();
        let named = counters.iter().filter(|(known, _)| *known == name || known.starts_with(&rest));
        named.map(|(_, value)| value).sum()
    }

    pub(crate) fn gauge(&self, name: &str) -> Option<u64> {
        self.gauges.borrow().get(name).copied()
    }

    /// The counters that are not zero and whose name has this in it.
    pub(crate) fn counted(&self, part: &str) -> Vec<String> {
        let counters = self.counters.borrow();
        let found = counters.iter().filter(|(name, _)| name.contains(part));
        found.map(|(name, value)| format!("{name} {value}")).collect()
    }

    /// The counters of requests, without whose they are and for which model.
    pub(crate) fn requests_counted(&self) -> Vec<String> {
        let mut sums = BTreeMap::new();
        for (name, value) in self.counters.borrow().iter() {
            if let Some((outcome, _)) = name.split_once(".subscription.") {
                if outcome.starts_with("aoai_requests_total") {
                    *sums.entry(outcome.to_owned()).or_default() += value;
                }
            }
        }
        sums.into_iter().map(|(name, value): (String, u64)| format!("{name} {value}")).collect()
    }

    /// What is stored for all workers.
    pub(crate) fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.store.borrow().get(key).map(|(value, _)| value.clone())
    }

    /// The lines of the log with this in them; all of them are forgotten.
    pub(crate) fn logged(&self, part: &str) -> Vec<String> {
        self.log.take().into_iter().filter(|line| line.contains(part)).collect()
    }
}

/// The host of one context: the process, and the message at hand.
pub(crate) struct Memory {
    pub(crate) process: Rc<Process>,
    worker: u64,
    pub(crate) at: RefCell<AtHand>,
}

/// What Envoy holds of an exchange, or of an attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct AtHand {
    pub(crate) request_headers: Headers,
    pub(crate) request_trailers: Headers,
    /// What is held of the body.
    pub(crate) request_body: Vec<u8>,
    /// How much of the body has come.
    pub(crate) received: u64,
    pub(crate) response_headers: Headers,
    pub(crate) response_body: Vec<u8>,
    pub(crate) response_is_complete: bool,
    pub(crate) code_details: Option<Vec<u8>>,
    pub(crate) pool_reference: Option<Vec<u8>>,
    pub(crate) upstream_backend: Option<String>,
    /// What access logs find.
    pub(crate) noted: BTreeMap<&'static str, String>,
}

impl Memory {
    pub(crate) fn new(process: &Rc<Process>, worker: u64, at: AtHand) -> Self {
        Self { process: Rc::clone(process), worker, at: RefCell::new(at) }
    }
}

impl Host for Memory {
    fn now(&self) -> SystemTime {
        self.process.now()
    }

    fn shared(&self, key: &str) -> Stored {
        match self.process.store.borrow().get(key) {
            Some((value, version)) => {
                Stored { value: Some(value.clone()), version: Some(*version) }
            }
            None => Stored::default(),
        }
    }

    fn set_shared(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let failing = self.process.failing_writes.get();
        if failing > 0 {
            self.process.failing_writes.set(failing - 1);
            return false;
        }
        let mut store = self.process.store.borrow_mut();
        let known = store.get(key).map_or(0, |(_, version)| *version);
        // Envoy ignores the version of what is not there.
        if known != 0 && version.is_some_and(|version| version != known) {
            return false;
        }
        store.insert(key.to_owned(), (value.to_vec(), known + 1));
        true
    }

    fn request_headers(&self) -> Headers {
        self.at.borrow().request_headers.clone()
    }

    fn request_trailers(&self) -> Headers {
        self.at.borrow().request_trailers.clone()
    }

    fn request_body(&self, from: usize, to: usize) -> Vec<u8> {
        self.at.borrow().request_body.get(from..to).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn received_request_bytes(&self) -> Option<u64> {
        let at = self.at.borrow();
        let head: usize =
            at.request_headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        Some(head as u64 + at.received)
    }

    fn response_headers(&self) -> Headers {
        self.at.borrow().response_headers.clone()
    }

    fn response_status(&self) -> Option<u16> {
        value(&self.at.borrow().response_headers, ":status")?.parse().ok()
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        self.at.borrow().response_body.get(..size).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn response_is_complete(&self) -> bool {
        self.at.borrow().response_is_complete
    }

    fn response_code_details(&self) -> Option<Vec<u8>> {
        self.at.borrow().code_details.clone()
    }

    fn connection_failed(&self) -> bool {
        self.process.connections_fail.get()
    }

    fn pool_reference(&self) -> Option<Vec<u8>> {
        self.at.borrow().pool_reference.clone()
    }

    fn upstream_backend(&self) -> Option<String> {
        self.at.borrow().upstream_backend.clone()
    }

    fn call(&self, request: &IdentityRequest, _: Duration) -> Result<u32, CalloutResponse> {
        let number = self.process.callouts_made.get() + 1;
        self.process.callouts_made.set(number);
        self.process.callouts.borrow_mut().push((self.worker, number, request.clone()));
        Ok(number)
    }

    fn fetch_soon(&self) {
        self.process.fetches_soon.set(self.process.fetches_soon.get() + 1);
    }

    fn add(&self, counter: Counter<'_>, by: u64) {
        let mut name = String::new();
        counter.write_name(&mut name);
        *self.process.counters.borrow_mut().entry(name).or_default() += by;
    }

    fn set(&self, gauge: Gauge<'_>, value: u64) {
        let mut name = String::new();
        gauge.write_name(&mut name);
        self.process.gauges.borrow_mut().insert(name, value);
    }

    fn record(&self, histogram: Histogram<'_>, value: u64) {
        let mut name = String::new();
        histogram.write_name(&mut name);
        self.process.histograms.borrow_mut().entry(name).or_default().push(value);
    }

    fn note(&self, field: LogField<'_>) {
        let mut at = self.at.borrow_mut();
        let known = at.noted.insert(field.name(), field.value().into_owned());
        let is_new = known.as_ref().is_none_or(|known| known == "0");
        let is_same = known.is_some_and(|known| known == at.noted[field.name()]);
        assert!(is_new || is_same, "{field:?} is noted with one value");
    }

    fn log(&self, entry: &LogEntry<'_>) {
        self.process.log.borrow_mut().push(entry.to_string());
    }
}

/// The first value of a header, as text.
pub(crate) fn value(headers: &Headers, name: &str) -> Option<String> {
    let (_, value) = headers.iter().find(|(known, _)| known == name)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn remove(headers: &mut Headers, name: &str) {
    headers.retain(|(known, _)| known != name);
}

fn set(headers: &mut Headers, name: &str, value: &[u8]) {
    remove(headers, name);
    headers.push((name.to_owned(), value.to_vec()));
}

/// As Envoy does, where what is beyond a buffer is behind it.
fn edit_body(body: &mut Vec<u8>, edit: &BodyEdit) {
    let place = |at: usize| at.min(body.len());
    body.splice(place(edit.at.start)..place(edit.at.end), edit.with.iter().copied());
}

fn change(headers: &mut Headers, changes: &Changes) {
    for change in &changes.headers {
        match change {
            HeaderChange::Remove(name) => remove(headers, name),
            HeaderChange::Set(name, value) => set(headers, name, value),
        }
    }
}

/// One worker: its gateway, and the memory that the two stages share unless the backend stage is of
/// another module.
pub(crate) struct Worker {
    pub(crate) process: Rc<Process>,
    number: u64,
    root: Memory,
    gateway: RefCell<Rc<Gateway>>,
    pub(crate) requests: Rc<PoolRequests>,
    pub(crate) buffer: Rc<RequestBuffer>,
    backend_stage: RefCell<Rc<PoolRequests>>,
    pending: Pending<Rc<Call>>,
    calls: Cell<u32>,
    due: Cell<Option<SystemTime>>,
}

impl Worker {
    pub(crate) fn new(process: &Rc<Process>, document: &serde_json::Value) -> Rc<Self> {
        let number = process.workers.get() + 1;
        process.workers.set(number);
        let root = Memory::new(process, number, AtHand::default());
        let requests = Rc::<PoolRequests>::default();
        requests.identify(1000 + number);
        let gateway = Gateway::new(config(document), &root);
        Rc::new(Self {
            process: Rc::clone(process),
            number,
            root,
            gateway: RefCell::new(Rc::new(gateway)),
            backend_stage: RefCell::new(Rc::clone(&requests)),
            requests,
            buffer: Rc::default(),
            pending: Pending::default(),
            calls: Cell::default(),
            due: Cell::default(),
        })
    }

    /// A worker that has its tokens.
    pub(crate) fn ready(process: &Rc<Process>, document: &serde_json::Value) -> Rc<Self> {
        let worker = Self::new(process, document);
        worker.sign_in();
        worker
    }

    /// Calls from now on have this configuration.
    pub(crate) fn replace_configuration(&self, document: &serde_json::Value) {
        let gateway = Gateway::new(config(document), &self.root);
        self.gateway.replace(Rc::new(gateway));
    }

    /// Attempts from now on are another module's.
    pub(crate) fn replace_backend_stage(&self) {
        let requests = Rc::<PoolRequests>::default();
        requests.identify(2000 + self.number);
        self.backend_stage.replace(requests);
    }

    /// Attempts from now on are another worker's.
    pub(crate) fn use_backend_stage_of(&self, other: &Self) {
        self.backend_stage.replace(Rc::clone(&other.requests));
    }

    /// Attempts from now on are this module's again.
    pub(crate) fn restore_backend_stage(&self) {
        self.backend_stage.replace(Rc::clone(&self.requests));
    }

    pub(crate) fn gateway(&self) -> Rc<Gateway> {
        Rc::clone(&self.gateway.borrow())
    }

    pub(crate) fn context<'a>(
        &'a self,
        id: u32,
        gateway: &'a Rc<Gateway>,
        memory: &'a Memory,
    ) -> Context<'a> {
        Context::new(id, gateway, &self.requests, &self.buffer, memory)
    }

    /// The worker reads what is known of backends.
    pub(crate) fn look_at_backends(&self) {
        self.gateway.borrow().states(&self.root, self.process.now());
    }

    pub(crate) fn tick(&self) {
        let gateway = self.gateway();
        let now = self.process.now();
        self.due.set(Some(gateway.tick(&self.root, now)));
        for (_, call) in self.pending.take(Some(now)) {
            call.wake_up();
        }
    }

    /// Lets time pass, with a tick whenever one is due.
    pub(crate) fn pass(&self, time: Duration) {
        let end = self.process.now() + time;
        loop {
            self.tick();
            let now = self.process.now();
            let next = [self.due.get(), self.pending.next(), Some(end)].into_iter().flatten().min();
            let next = next.unwrap_or(end).max(now + SHORTEST_TICK).min(end);
            if now >= end {
                return;
            }
            self.process.advance(next.duration_since(now).unwrap_or_default());
        }
    }

    /// Answers the oldest of this worker's callouts.
    pub(crate) fn answer(&self, response: &CalloutResponse) {
        let mut callouts = self.process.callouts.borrow_mut();
        let oldest = callouts.iter().position(|(worker, ..)| *worker == self.number);
        let (_, number, _) = callouts.remove(oldest.expect("a callout"));
        drop(callouts);
        let gateway = self.gateway();
        gateway.settle(&self.root, number, response, self.process.now());
        for (_, call) in self.pending.take(None) {
            call.wake_up();
        }
    }

    /// The cluster that the oldest of this worker's callouts is for.
    pub(crate) fn callout(&self) -> Option<String> {
        let callouts = self.process.callouts.borrow();
        let oldest = callouts.iter().find(|(worker, ..)| *worker == self.number);
        oldest.map(|(_, _, request)| request.cluster.clone())
    }

    /// Has due tokens fetched, each of which names its cluster and its number.
    pub(crate) fn sign_in(&self) {
        self.tick();
        while let Some(cluster) = self.callout() {
            self.answer(&token(&format!("h.{cluster}.{}", self.process.callouts_made.get()), 3600));
        }
        self.tick();
    }

    /// A call of which only the head has come, and all there is where it has `ended`.
    pub(crate) fn begin(self: &Rc<Self>, request: &Request, ended: bool) -> Rc<Call> {
        let id = self.calls.get() + 1;
        self.calls.set(id);
        let call = Rc::new(Call {
            id,
            worker: Rc::clone(self),
            gateway: Rc::clone(&self.gateway.borrow()),
            memory: Memory::new(
                &self.process,
                self.number,
                AtHand { request_headers: request.headers.clone(), ..AtHand::default() },
            ),
            flow: RefCell::default(),
            stream: RefCell::default(),
        });
        call.stream.borrow_mut().request_has_ended = ended;
        call.request_event(Event::Head { ended });
        call
    }

    /// A whole call, in pieces of this size.
    pub(crate) fn call_in_pieces(self: &Rc<Self>, request: &Request, size: usize) -> Rc<Call> {
        let call = self.begin(request, request.body.is_empty());
        let mut pieces = request.body.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            call.piece(piece, pieces.peek().is_none());
        }
        call
    }

    /// A whole call.
    pub(crate) fn call(self: &Rc<Self>, request: &Request) -> Rc<Call> {
        self.call_in_pieces(request, usize::MAX)
    }

    /// What the caller of a whole call is told: see [`Call::told`].
    pub(crate) fn ask(self: &Rc<Self>, request: &Request) -> String {
        self.call(request).told()
    }
}

fn config(document: &serde_json::Value) -> Config {
    match Config::from_json(document.to_string().as_bytes()) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

/// An identity endpoint's response with a token that lasts so many seconds.
pub(crate) fn token(token: &str, seconds: u64) -> CalloutResponse {
    let body = serde_json::json!({"access_token": token, "expires_in": seconds});
    CalloutResponse::Response {
        status: 200,
        retry_after: None,
        body: body.to_string().into_bytes(),
    }
}

/// A caller's request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self::default()
            .header(":method", method)
            .header(":path", path)
            .header(":authority", "gateway")
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..self }
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        set(&mut self.headers, ":path", path.as_bytes());
        self
    }

    /// The length of the body that it has now.
    pub(crate) fn content_length(self) -> Self {
        let length = self.body.len().to_string();
        self.header("content-length", length)
    }
}

/// One exchange.
pub(crate) struct Call {
    id: u32,
    worker: Rc<Worker>,
    gateway: Rc<Gateway>,
    memory: Memory,
    flow: RefCell<RequestFlow>,
    stream: RefCell<Stream>,
}

/// How far Envoy has come with an exchange.
#[derive(Default)]
struct Stream {
    request_has_ended: bool,
    request_is_held: bool,
    request_head_has_gone: bool,
    /// What has gone on of the request's body, and whether that is all.
    forwarded: Vec<u8>,
    is_forwarded: bool,
    loses_piece: bool,
    backends: Vec<String>,
    is_pool: bool,
    attempts: usize,
    attempt: Option<Attempt>,
    response_is_held: bool,
    response_head_has_gone: bool,
    response_has_ended: bool,
    loses_response_piece: bool,
    response: Option<Caller>,
    is_over: bool,
}

/// What a caller has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) is_complete: bool,
}

/// An attempt at a backend, or the only one at a single backend.
struct Attempt {
    /// The backend stage, where there is one.
    stage: Option<(AttemptFlow, Memory)>,
    arrived: Rc<RefCell<Arrived>>,
    reaction: Option<Reaction>,
    /// Whether the backend stage holds some of the response.
    is_held: bool,
    /// Whether it is to be woken up, be the response held then or not.
    waits: bool,
    /// Whether it has let the response's head go on.
    head_has_gone: bool,
    response_has_ended: bool,
    has_trailers: bool,
    loses_piece: bool,
}

/// A local reply's head, as Envoy sends it.
fn headers_of(reply: &LocalResponse) -> Headers {
    let own =
        [(":status", reply.status.to_string()), ("content-length", reply.body.len().to_string())];
    let headers = own.into_iter().chain(reply.headers.iter().cloned());
    headers.map(|(name, value)| (name.to_owned(), value.into())).collect()
}

impl Call {
    // What a test looks at.

    /// Status, backend, attempts, reason and diagnosis, as far as the caller is told; nothing yet where
    /// there is no response.
    pub(crate) fn told(&self) -> String {
        let stream = self.stream.borrow();
        let Some(response) = &stream.response else {
            return String::new();
        };
        let names =
            [":status", "x-aoai-backend", "x-aoai-attempts", "x-aoai-reason", "x-aoai-diagnosis"];
        let values: Vec<_> =
            names.iter().filter_map(|name| value(&response.headers, name)).collect();
        values.join(" ")
    }

    pub(crate) fn response(&self) -> Caller {
        self.stream.borrow().response.clone().unwrap_or_default()
    }

    /// The value of a header of the response.
    pub(crate) fn response_header(&self, name: &str) -> Option<String> {
        value(&self.response().headers, name)
    }

    /// What an access log finds as `wasm.aoai_…`; empty where there is nothing.
    pub(crate) fn noted(&self, name: &str) -> String {
        let name = format!("aoai_{name}");
        self.memory.at.borrow().noted.get(name.as_str()).cloned().unwrap_or_default()
    }

    /// The headers of the request as they are now, as an access log shows them.
    pub(crate) fn request_header(&self, name: &str) -> Option<String> {
        value(&self.memory.at.borrow().request_headers, name)
    }

    /// The first of them.
    pub(crate) fn first_backend(&self) -> String {
        self.stream.borrow().backends.first().cloned().unwrap_or_default()
    }

    /// What the gateway stage has left for the attempts.
    pub(crate) fn reference(&self) -> Option<PoolReference> {
        PoolReference::from_bytes(self.memory.at.borrow().pool_reference.as_ref()?)
    }

    /// How many bytes of the request's body Envoy holds.
    pub(crate) fn held(&self) -> usize {
        self.memory.at.borrow().request_body.len()
    }

    /// The cluster that the request is routed to: its backends.
    pub(crate) fn routed_to(&self) -> String {
        self.stream.borrow().backends.join(">")
    }

    // What a caller does.

    /// The next piece of the body comes.
    pub(crate) fn piece(self: &Rc<Self>, piece: &[u8], ended: bool) {
        if self.stream.borrow().is_over {
            return;
        }
        let size = {
            let mut at = self.memory.at.borrow_mut();
            at.received += piece.len() as u64;
            at.request_body.extend_from_slice(piece);
            at.request_body.len()
        };
        self.stream.borrow_mut().request_has_ended = ended;
        self.request_event(Event::Body { size, ended });
    }

    /// Envoy receives bytes that it does not show.
    pub(crate) fn receives(&self, bytes: u64) {
        self.memory.at.borrow_mut().received += bytes;
    }

    /// The request ends with trailers.
    pub(crate) fn trailers(self: &Rc<Self>, trailers: &[(&str, &str)]) {
        if self.stream.borrow().is_over {
            return;
        }
        let pairs =
            trailers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        self.memory.at.borrow_mut().request_trailers = pairs.collect();
        self.stream.borrow_mut().request_has_ended = true;
        self.request_event(Event::Trailers);
    }

    /// The caller leaves.
    pub(crate) fn leave(&self) {
        self.end_attempt();
        self.delete();
    }

    /// Envoy deletes the request's context.
    fn delete(&self) {
        let was_over = std::mem::replace(&mut self.stream.borrow_mut().is_over, true);
        self.worker.pending.remove(self.id);
        if !was_over {
            self.on(Event::End);
        }
        self.flow.take();
    }

    // The gateway stage.

    /// Has the flow take an event, and changes the message as it says.
    fn on(&self, event: Event) -> Step {
        let context = self.worker.context(self.id, &self.gateway, &self.memory);
        let flow = self.flow.take();
        let (next, step) = flow.on(event, &context);
        self.flow.replace(next);
        let mut at = self.memory.at.borrow_mut();
        let stream = self.stream.borrow();
        let (headers, has_gone) = match step.message {
            Message::Request => (&mut at.request_headers, stream.request_head_has_gone),
            Message::Response => (&mut at.response_headers, stream.response_head_has_gone),
        };
        assert!(
            !has_gone || step.changes.headers.is_empty(),
            "{event:?}: the head has gone: {step:?}"
        );
        change(headers, &step.changes);
        for name in &step.changes.removed_trailers {
            remove(&mut at.request_trailers, name);
        }
        if let Some(edit) = &step.changes.body {
            let body = match step.message {
                Message::Request => &mut at.request_body,
                Message::Response => &mut at.response_body,
            };
            edit_body(body, edit);
        }
        if let Some(reference) = &step.changes.pool_reference {
            at.pool_reference = Some(reference.clone());
        }
        drop(at);
        step
    }

    fn wait(self: &Rc<Self>, until: Option<SystemTime>) {
        if let Some(until) = until {
            self.worker.pending.add(self.id, until, Rc::clone(self));
        }
    }

    fn request_event(self: &Rc<Self>, event: Event) {
        let step = self.on(event);
        assert_eq!(step.message, Message::Request, "{event:?}");
        match step.then {
            Then::Continue => self.release_request(),
            Then::Pause(until) => {
                let stream = self.stream.borrow();
                let is_body = matches!(event, Event::Body { .. });
                assert!(
                    !(is_body && stream.request_head_has_gone),
                    "a piece is held behind others that have gone on: Envoy sends those again"
                );
                drop(stream);
                self.stream.borrow_mut().request_is_held = true;
                self.wait(until);
            }
            Then::Reply(reply) => self.reply(&reply),
        }
    }

    fn wake_up(self: &Rc<Self>) {
        // Of a request that Envoy no longer has, nothing is done.
        if self.stream.borrow().is_over {
            return;
        }
        let mut stream = self.stream.borrow_mut();
        let waits =
            stream.attempt.as_mut().is_some_and(|attempt| std::mem::take(&mut attempt.waits));
        drop(stream);
        if waits {
            return self.attempt_response_event(AttemptEvent::WakeUp);
        }
        let step = self.on(Event::WakeUp);
        match (step.then, step.message) {
            (Then::Pause(until), _) => self.wait(until),
            (Then::Reply(reply), _) => self.reply(&reply),
            (Then::Continue, Message::Request) => {
                assert!(
                    self.stream.borrow().request_is_held,
                    "a request that is not held is resumed"
                );
                let has_body = !self.memory.at.borrow().request_body.is_empty();
                let mut stream = self.stream.borrow_mut();
                stream.loses_piece = has_body && !stream.request_has_ended;
                drop(stream);
                self.release_request();
            }
            (Then::Continue, Message::Response) => {
                assert!(
                    self.stream.borrow().response_is_held,
                    "a response that is not held is resumed"
                );
                let has_body = !self.memory.at.borrow().response_body.is_empty();
                let mut stream = self.stream.borrow_mut();
                stream.loses_response_piece = has_body && !stream.response_has_ended;
                drop(stream);
                self.release_response();
            }
        }
    }

    /// A local reply of the gateway stage, which comes back as a response.
    fn reply(self: &Rc<Self>, reply: &LocalResponse) {
        self.end_attempt();
        let headers = headers_of(reply);
        let mut sent = headers.clone();
        if self.stream.borrow().request_head_has_gone {
            // The route adds them to every response of a request for which it has chosen a cluster.
            sent.extend([BACKEND, ATTEMPTS].map(|name| (name.to_owned(), b"added".to_vec())));
        }
        self.memory.at.borrow_mut().response_headers = sent;
        for event in
            [Event::ResponseHead { ended: false }, Event::ResponseBody { size: 1, ended: true }]
        {
            assert_eq!(self.on(event).then, Then::Continue);
            let left = &self.memory.at.borrow().response_headers;
            assert_eq!(
                *left, headers,
                "a local reply names no backend, and is otherwise as it was made"
            );
        }
        self.end_with(headers, reply);
    }

    fn end_with(self: &Rc<Self>, headers: Headers, reply: &LocalResponse) {
        let body = reply.body.clone().into_bytes();
        self.stream.borrow_mut().response = Some(Caller { headers, body, is_complete: true });
        self.delete();
    }

    // The router.

    fn release_request(self: &Rc<Self>) {
        let mut piece = std::mem::take(&mut self.memory.at.borrow_mut().request_body);
        let mut stream = self.stream.borrow_mut();
        let was_held = std::mem::take(&mut stream.request_is_held);
        if !was_held && std::mem::take(&mut stream.loses_piece) {
            piece.clear();
        }
        stream.forwarded.extend_from_slice(&piece);
        stream.is_forwarded = stream.request_has_ended;
        if stream.request_head_has_gone {
            let ended = stream.is_forwarded;
            drop(stream);
            return self.attempt_piece(&piece, ended);
        }
        stream.request_head_has_gone = true;
        let mut at = self.memory.at.borrow_mut();
        let cluster = value(&at.request_headers, "x-aoai-cluster").unwrap_or_default();
        remove(&mut at.request_headers, "x-aoai-cluster");
        drop(at);
        let (is_pool, backends) = match cluster.strip_prefix("aoai/") {
            Some(members) => (
                true,
                members
                    .split('>')
                    .filter(|one| Some(*one) != self.worker.process.unresolved.borrow().as_deref())
                    .map(str::to_owned)
                    .collect(),
            ),
            None => {
                (false, vec![cluster.strip_prefix("aoai_").expect("a cluster of ours").to_owned()])
            }
        };
        (stream.is_pool, stream.backends) = (is_pool, backends);
        drop(stream);
        self.attempt();
    }

    /// Begins the next attempt, if Envoy has kept what it needs for that.
    fn retry(self: &Rc<Self>) {
        if self.worker.process.retries_overflow.get() {
            let response = Response::new(507).piece(b"exceeded request buffer limit");
            return self.deliver(response, b"request_payload_exceeded_retry_buffer_limit");
        }
        self.attempt();
    }

    /// Begins the next attempt with what has been forwarded.
    fn attempt(self: &Rc<Self>) {
        let mut stream = self.stream.borrow_mut();
        let backend =
            stream.backends.iter().cycle().nth(stream.attempts).expect("backends").clone();
        stream.attempts += 1;
        let arrived = Arrived { backend: backend.clone(), ..Arrived::default() };
        let arrived = Rc::new(RefCell::new(arrived));
        self.worker.process.arrived.borrow_mut().push(Rc::clone(&arrived));
        let reaction = Some(self.worker.process.reaction(&backend));
        let stage = stream.is_pool.then(|| {
            let stage = AttemptFlow::New(Rc::clone(&self.worker.backend_stage.borrow()));
            (
                stage,
                Memory::new(
                    &self.worker.process,
                    self.worker.number,
                    AtHand {
                        pool_reference: self.memory.at.borrow().pool_reference.clone(),
                        upstream_backend: Some(match self.worker.process.renames_backends.get() {
                            true => format!("other-{backend}"),
                            false => backend,
                        }),
                        ..AtHand::default()
                    },
                ),
            )
        });
        stream.attempt = Some(Attempt {
            stage,
            arrived,
            reaction,
            is_held: false,
            waits: false,
            head_has_gone: false,
            response_has_ended: false,
            has_trailers: false,
            loses_piece: false,
        });
        let (body, ended) = (stream.forwarded.clone(), stream.is_forwarded);
        drop(stream);
        let head_ended = ended && body.is_empty();
        // All attempts share one header map.
        let headers = self.memory.at.borrow().request_headers.clone();
        if let Some((_, memory)) = &self.stream.borrow().attempt.as_ref().expect("begun").stage {
            memory.at.borrow_mut().request_headers = headers;
        }
        if self.attempt_event(AttemptEvent::Head { ended: head_ended }) {
            if let Some(attempt) = &self.stream.borrow().attempt {
                let mut arrived = attempt.arrived.borrow_mut();
                arrived.headers = self.memory.at.borrow().request_headers.clone();
                arrived.complete = head_ended;
            }
            if body.is_empty() {
                self.react();
            } else {
                self.attempt_piece(&body, ended);
            }
        }
    }

    /// Has the backend stage take an event about the request; whether the attempt goes on.
    fn attempt_event(self: &Rc<Self>, event: AttemptEvent) -> bool {
        let mut stream = self.stream.borrow_mut();
        let Some(Attempt { stage: Some((flow, memory)), .. }) = &mut stream.attempt else {
            return true;
        };
        let (next, step) = std::mem::replace(flow, AttemptFlow::Ended).on(event, memory);
        *flow = next;
        assert_eq!(step.message, Message::Request);
        assert!(step.changes.headers.is_empty() || matches!(event, AttemptEvent::Head { .. }));
        change(&mut self.memory.at.borrow_mut().request_headers, &step.changes);
        if let Some(edit) = &step.changes.body {
            edit_body(&mut memory.at.borrow_mut().request_body, edit);
        }
        drop(stream);
        match step.then {
            Then::Continue => true,
            Then::Pause(None) if matches!(event, AttemptEvent::Body { .. }) => false,
            Then::Pause(_) => panic!("nothing wakes an attempt up"),
            Then::Reply(reply) => {
                let backend = self.stream.borrow().attempt.as_ref().expect("begun").arrived.clone();
                self.worker.process.arrived.borrow_mut().retain(|one| !Rc::ptr_eq(one, &backend));
                let name = backend.borrow().backend.clone();
                let mut response = Response::new(reply.status).piece(reply.body.as_bytes());
                for (name, value) in &reply.headers {
                    response = response.header(name, value);
                }
                self.end_attempt();
                self.route_response(&mut response, &name);
                self.deliver(response, b"");
                false
            }
        }
    }

    fn attempt_piece(self: &Rc<Self>, piece: &[u8], ended: bool) {
        let has_trailers = ended && !self.memory.at.borrow().request_trailers.is_empty();
        let held = match &self.stream.borrow().attempt {
            None => return,
            Some(Attempt { stage: Some((_, memory)), .. }) => {
                let held = &mut memory.at.borrow_mut().request_body;
                held.extend_from_slice(piece);
                Some(held.len())
            }
            Some(Attempt { stage: None, .. }) => None,
        };
        let goes_on = match held {
            Some(0) if ended && !has_trailers && piece.is_empty() => {
                self.attempt_event(AttemptEvent::Body { size: 0, ended })
            }
            Some(size) => {
                self.attempt_event(AttemptEvent::Body { size, ended: ended && !has_trailers })
            }
            None => true,
        };
        if !goes_on {
            assert!(!ended, "the end of a body is held, and nothing will wake it up");
            return;
        }
        if has_trailers {
            assert!(self.attempt_event(AttemptEvent::Trailers));
        }
        if let Some(attempt) = &self.stream.borrow().attempt {
            let piece = match &attempt.stage {
                Some((_, memory)) => std::mem::take(&mut memory.at.borrow_mut().request_body),
                None => piece.to_vec(),
            };
            let mut arrived = attempt.arrived.borrow_mut();
            arrived.body.extend_from_slice(&piece);
            arrived.complete = ended;
            if ended {
                arrived.trailers = self.memory.at.borrow().request_trailers.clone();
            }
        }
        self.react();
    }

    /// The backend does what it does as soon as it has what it waits for.
    fn react(self: &Rc<Self>) {
        let mut stream = self.stream.borrow_mut();
        let Some(attempt) = &mut stream.attempt else {
            return;
        };
        let complete = attempt.arrived.borrow().complete;
        let Some(reaction) = attempt.reaction.take_if(|reaction| reaction.early || complete) else {
            return;
        };
        drop(stream);
        self.worker.process.advance(reaction.delay);
        match reaction.what {
            What::Respond(response) => self.respond(response),
            What::Reset => self.reset(),
            What::Hang => {}
        }
    }

    /// The attempt is over.
    fn end_attempt(self: &Call) {
        let attempt = self.stream.borrow_mut().attempt.take();
        if let Some(Attempt { stage: Some((flow, memory)), .. }) = attempt {
            let (_, step) = flow.on(AttemptEvent::End, &memory);
            assert_eq!(step.then, Then::Continue);
            self.leave_for_next(&step.changes);
        }
    }

    /// An attempt leaves something for the next one.
    fn leave_for_next(&self, changes: &Changes) {
        if let Some(reference) = &changes.pool_reference {
            self.memory.at.borrow_mut().pool_reference = Some(reference.clone());
        }
    }

    /// The backend's response begins.
    pub(crate) fn respond(self: &Rc<Self>, mut response: Response) {
        let mut stream = self.stream.borrow_mut();
        let Some(attempt) = &mut stream.attempt else {
            return;
        };
        let backend = attempt.arrived.borrow().backend.clone();
        let Some((_, memory)) = &attempt.stage else {
            drop(stream);
            self.route_response(&mut response, &backend);
            return self.deliver(response, b"via_upstream");
        };
        let Response { status, headers, pieces, is_open, has_trailers } = response;
        {
            let mut at = memory.at.borrow_mut();
            at.response_headers = headers;
            set(&mut at.response_headers, ":status", status.to_string().as_bytes());
            at.response_is_complete = !is_open;
        }
        let ended = pieces.is_empty() && !is_open && !has_trailers;
        (attempt.response_has_ended, attempt.has_trailers) = (ended, has_trailers);
        let arrived = Rc::clone(&attempt.arrived);
        drop(stream);
        self.attempt_response_event(AttemptEvent::ResponseHead { ended });
        let count = pieces.len();
        for (index, piece) in pieces.iter().enumerate() {
            let is_this = |one: &Attempt| Rc::ptr_eq(&one.arrived, &arrived);
            if !self.stream.borrow().attempt.as_ref().is_some_and(is_this) {
                // The next backend is asked.
                return;
            }
            let last = index + 1 == count && !is_open;
            self.response_piece(piece, last && !has_trailers);
        }
        if has_trailers && !is_open {
            self.response_trailers();
        }
    }

    /// Has the backend stage take an event about the response.
    fn attempt_response_event(self: &Rc<Self>, event: AttemptEvent) {
        let mut stream = self.stream.borrow_mut();
        let Some(Attempt { stage: Some((flow, memory)), head_has_gone, .. }) = &mut stream.attempt
        else {
            return;
        };
        let (next, step) = std::mem::replace(flow, AttemptFlow::Ended).on(event, memory);
        *flow = next;
        assert_eq!(step.message, Message::Response);
        assert!(step.changes.headers.is_empty() || !*head_has_gone, "{event:?}: the head has gone");
        change(&mut memory.at.borrow_mut().response_headers, &step.changes);
        self.leave_for_next(&step.changes);
        let Some(attempt) = &mut stream.attempt else {
            return;
        };
        match step.then {
            Then::Pause(until) => {
                attempt.is_held |= event != AttemptEvent::WakeUp;
                attempt.waits |= until.is_some();
                drop(stream);
                self.wait(until);
            }
            Then::Continue => {
                let has_body = attempt
                    .stage
                    .as_ref()
                    .is_some_and(|(_, memory)| !memory.at.borrow().response_body.is_empty());
                let was_held = std::mem::take(&mut attempt.is_held);
                assert!(event != AttemptEvent::WakeUp || was_held, "what is not held is resumed");
                let loses_piece = !was_held && std::mem::take(&mut attempt.loses_piece);
                attempt.loses_piece |=
                    event == AttemptEvent::WakeUp && has_body && !attempt.response_has_ended;
                drop(stream);
                self.release_from_attempt(loses_piece);
            }
            Then::Reply(reply) => panic!("a response is no reason for a local reply: {reply:?}"),
        }
    }

    /// What the backend stage has let go on reaches the router, which asks the next backend or passes it on.
    fn release_from_attempt(self: &Rc<Self>, loses_piece: bool) {
        let mut stream = self.stream.borrow_mut();
        let attempts = stream.attempts;
        let Some(attempt) = &mut stream.attempt else {
            return;
        };
        let Some((_, memory)) = &attempt.stage else {
            return;
        };
        let mut piece = std::mem::take(&mut memory.at.borrow_mut().response_body);
        if loses_piece {
            piece.clear();
        }
        let (ended, has_trailers) = (attempt.response_has_ended, attempt.has_trailers);
        if std::mem::replace(&mut attempt.head_has_gone, true) {
            drop(stream);
            let has_trailers = ended && has_trailers;
            if !has_trailers || !piece.is_empty() {
                self.response_data(&piece, ended && !has_trailers);
            }
            if has_trailers {
                self.gateway_trailers();
            }
            return;
        }
        let mut headers = memory.at.borrow().response_headers.clone();
        let status = value(&headers, ":status").and_then(|status| status.parse().ok());
        let moves_on = value(&headers, "x-aoai-retry").is_some() && attempts <= MOST_RETRIES;
        remove(&mut headers, ":status");
        let backend = attempt.arrived.borrow().backend.clone();
        drop(stream);
        if moves_on {
            self.end_attempt();
            if let Some(happens) = self.worker.process.before_retry.take() {
                happens();
            }
            return self.retry();
        }
        let mut response = Response {
            status: status.expect("a status"),
            headers,
            pieces: if piece.is_empty() && !ended { Vec::new() } else { vec![piece] },
            is_open: !ended,
            has_trailers,
        };
        if response.pieces.iter().all(Vec::is_empty) {
            response.pieces.clear();
        }
        self.route_response(&mut response, &backend);
        self.deliver(response, b"via_upstream");
    }

    /// The route's changes of what comes from upstream, be it a backend's response or a reply of the stage
    /// before it.
    fn route_response(&self, response: &mut Response, backend: &str) {
        for name in REMOVED {
            remove(&mut response.headers, name);
        }
        set(&mut response.headers, "x-aoai-backend", backend.as_bytes());
        let stream = self.stream.borrow();
        if stream.is_pool {
            set(&mut response.headers, "x-aoai-attempts", stream.attempts.to_string().as_bytes());
        }
    }

    /// The connection to the backend is reset.
    pub(crate) fn reset(self: &Rc<Self>) {
        self.end_attempt();
        let stream = self.stream.borrow();
        let (is_pool, attempts) = (stream.is_pool, stream.attempts);
        if stream.is_over || stream.response.is_some() {
            return;
        }
        drop(stream);
        if is_pool && attempts <= MOST_RETRIES {
            return self.retry();
        }
        let response = Response::new(503).piece(b"upstream connect error");
        self.deliver(response, b"upstream_reset_before_response_started{connection_termination}");
    }

    /// Envoy itself replies, in its own words.
    pub(crate) fn envoy_replies(self: &Rc<Self>, status: u16, details: &str) {
        let response = match details {
            "cluster_not_found" => Response::new(status),
            _ => Response::new(status).piece(b"Envoy's own text"),
        };
        self.envoy_sends(response, details);
    }

    /// The same, with this response.
    pub(crate) fn envoy_sends(self: &Rc<Self>, response: Response, details: &str) {
        self.deliver(response, details.as_bytes());
    }

    /// A response passes the gateway stage.
    fn deliver(self: &Rc<Self>, response: Response, details: &[u8]) {
        let Response { status, mut headers, pieces, is_open, has_trailers } = response;
        set(&mut headers, ":status", status.to_string().as_bytes());
        let ended = pieces.is_empty() && !is_open && !has_trailers;
        {
            let mut at = self.memory.at.borrow_mut();
            (at.response_headers, at.code_details) = (headers, Some(details.to_vec()));
            at.response_is_complete = !is_open;
        }
        self.stream.borrow_mut().response_has_ended = ended;
        self.response_event(Event::ResponseHead { ended });
        let count = pieces.len();
        for (index, piece) in pieces.iter().enumerate() {
            let last = index + 1 == count && !is_open;
            self.response_data(piece, last && !has_trailers);
        }
        if has_trailers && !is_open {
            self.gateway_trailers();
        }
    }

    /// Envoy has received all of an open response, and does not show its body.
    pub(crate) fn response_has_come_unseen(&self) {
        self.memory.at.borrow_mut().response_is_complete = true;
        if let Some(Attempt { stage: Some((_, memory)), .. }) = &self.stream.borrow().attempt {
            memory.at.borrow_mut().response_is_complete = true;
        }
    }

    /// A further piece of an open response comes.
    pub(crate) fn response_piece(self: &Rc<Self>, piece: &[u8], ended: bool) {
        let mut stream = self.stream.borrow_mut();
        if stream.is_over {
            return;
        }
        if let Some(Attempt { stage: Some((_, memory)), response_has_ended, .. }) =
            &mut stream.attempt
        {
            *response_has_ended = ended;
            let mut at = memory.at.borrow_mut();
            at.response_is_complete = ended;
            at.response_body.extend_from_slice(piece);
            let size = at.response_body.len();
            drop(at);
            drop(stream);
            return self.attempt_response_event(AttemptEvent::ResponseBody { size, ended });
        }
        drop(stream);
        self.memory.at.borrow_mut().response_is_complete = ended;
        self.response_data(piece, ended);
    }

    fn response_data(self: &Rc<Self>, piece: &[u8], ended: bool) {
        if self.stream.borrow().is_over {
            return;
        }
        let size = {
            let mut at = self.memory.at.borrow_mut();
            at.response_body.extend_from_slice(piece);
            at.response_body.len()
        };
        self.stream.borrow_mut().response_has_ended = ended;
        self.response_event(Event::ResponseBody { size, ended });
    }

    /// An open response ends with trailers.
    pub(crate) fn response_trailers(self: &Rc<Self>) {
        let mut stream = self.stream.borrow_mut();
        if stream.is_over {
            return;
        }
        if let Some(Attempt { stage: Some(_), response_has_ended, has_trailers, .. }) =
            &mut stream.attempt
        {
            (*response_has_ended, *has_trailers) = (true, true);
            drop(stream);
            return self.attempt_response_event(AttemptEvent::ResponseTrailers);
        }
        drop(stream);
        self.gateway_trailers();
    }

    fn gateway_trailers(self: &Rc<Self>) {
        if !self.stream.borrow().is_over {
            self.stream.borrow_mut().response_has_ended = true;
            self.response_event(Event::ResponseTrailers);
        }
    }

    fn response_event(self: &Rc<Self>, event: Event) {
        let step = self.on(event);
        assert_eq!(step.message, Message::Response, "{event:?}");
        match step.then {
            Then::Continue => self.release_response(),
            Then::Pause(until) => {
                self.stream.borrow_mut().response_is_held = true;
                self.wait(until);
            }
            Then::Reply(reply) => {
                assert_eq!(event, Event::ResponseHead { ended: true }, "it has a body: {reply:?}");
                // Envoy sends it past the filters, which have a response already.
                self.end_attempt();
                self.end_with(headers_of(&reply), &reply);
            }
        }
    }

    fn release_response(self: &Rc<Self>) {
        let mut piece = std::mem::take(&mut self.memory.at.borrow_mut().response_body);
        let mut stream = self.stream.borrow_mut();
        let was_held = std::mem::take(&mut stream.response_is_held);
        if !was_held && std::mem::take(&mut stream.loses_response_piece) {
            piece.clear();
        }
        let ended = stream.response_has_ended;
        stream.response_head_has_gone = true;
        let headers = self.memory.at.borrow().response_headers.clone();
        let response =
            stream.response.get_or_insert_with(|| Caller { headers, ..Caller::default() });
        response.body.extend_from_slice(&piece);
        response.is_complete = ended;
        drop(stream);
        if ended {
            self.end_attempt();
            self.delete();
        }
    }
}
