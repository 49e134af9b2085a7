#include "server/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>

#include "server/context.h"
#include "server/job.h"
#include "server/wire.h"

namespace fl::server {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

namespace {

// GCC 12 destroys some temporaries of a co_await expression twice (gcc bug 99576): what a coroutine is called
// with is a named variable here.

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 * 1024;
constexpr size_t kMaxPipelined = 64 * 1024;  ///< bytes of further requests while one is answered
constexpr size_t kInlineBody = 64 * 1024;    ///< larger bodies are parsed by a worker
constexpr int kSendBuffer = 256 * 1024;      ///< the kernel's, so that a slow reader pauses its sequence soon
constexpr double kLingerSeconds = 2;         ///< for a client that still sends when it was refused
constexpr size_t kLingerBytes = 256ULL << 20;

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

}  // namespace

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = asio::generic::stream_protocol::socket;
  using Parser = http::request_parser<http::string_body>;

  Connection(std::shared_ptr<Hub> hub, Socket socket)
      : hub_(std::move(hub)),
        socket_(std::move(socket)),
        limits_(hub_->service.options().limits),
        deadline_(socket_.get_executor(), Clock::time_point::max()),
        wake_(socket_.get_executor(), Clock::time_point::max()) {
    const std::scoped_lock lock(hub_->mutex);
    hub_->connections.insert(this);
    ++hub_->service.metrics().connections;
  }

  ~Connection() {
    --hub_->service.metrics().connections;
    const std::scoped_lock lock(hub_->mutex);
    hub_->connections.erase(this);
  }

  void start() {
    tune();
    asio::co_spawn(
        socket_.get_executor(), [self = shared_from_this()] { return self->run(); }, asio::detached);
  }

  /// Any thread. `now`: also in the middle of a reply.
  void close(bool now) {
    asio::post(socket_.get_executor(), [self = shared_from_this(), now] {
      self->closing_ = true;
      if (now || self->idle_) {
        self->shut();
      }
    });
  }

 private:
  void tune() {
    const int fd = socket_.native_handle();
    const int one = 1;
    const int send = kSendBuffer;
    constexpr int kMs = 1000;
    constexpr int kKeepIdle = 15;
    constexpr int kKeepInterval = 5;
    const int stall = static_cast<int>(limits_.write_seconds * kMs);
    // Best effort: on a Unix socket the TCP options fail, and nothing depends on them for correctness.
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send, sizeof send);
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepIdle, sizeof kKeepIdle);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepInterval, sizeof kKeepInterval);
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall, sizeof stall);
  }

  // --- deadlines: one lazy timer; when it fires the pending operation is cancelled

  void set_deadline(Clock::time_point at) {
    const bool earlier = at < armed_;
    deadline_at_ = at;
    if (earlier) {
      arm(at);
    }
  }
  void set_deadline(double s) { set_deadline(Clock::now() + seconds(s)); }
  void clear_deadline() { deadline_at_ = Clock::time_point::max(); }

  void arm(Clock::time_point at) {
    armed_ = at;
    deadline_.expires_at(at);
    deadline_.async_wait([weak = weak_from_this()](error_code ec) {
      const auto self = weak.lock();
      if (!self || ec) {
        return;
      }
      self->armed_ = Clock::time_point::max();
      if (Clock::now() >= self->deadline_at_) {
        self->timed_out_ = true;
        self->deadline_at_ = Clock::time_point::max();
        error_code ignored;
        self->socket_.cancel(ignored);
      } else if (self->deadline_at_ != Clock::time_point::max()) {
        self->arm(self->deadline_at_);
      }
    });
  }

  void shut() {
    error_code ignored;
    socket_.cancel(ignored);
    socket_.shutdown(Socket::shutdown_both, ignored);
    gone_ = true;
    wake_.cancel();
  }

  // --- the conversation

  asio::awaitable<void> run() {
    try {
      bool more = true;
      while (more && !closing_ && !gone_) {
        more = co_await exchange();
      }
    } catch (const std::exception& e) {
      spdlog::error("a connection ended: {}", e.what());
    }
    deadline_.cancel();
    error_code ignored;
    socket_.shutdown(Socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

  // Waits for the first byte of a request.
  asio::awaitable<bool> await_request() {
    if (buffer_.size() > 0) {
      co_return true;
    }
    idle_ = true;
    set_deadline(limits_.idle_seconds);
    const auto [ec, n] = co_await socket_.async_read_some(buffer_.prepare(kReadBytes), kTuple);
    idle_ = false;
    if (ec || closing_) {
      co_return false;
    }
    buffer_.commit(n);
    co_return true;
  }

  // One request and its reply; false when the connection is over.
  asio::awaitable<bool> exchange() {
    const bool begun = co_await await_request();
    if (!begun) {
      co_return false;
    }
    keep_alive_ = false;
    head_ = {};
    head_only_ = false;
    http11_ = true;
    Parser parser;
    parser.header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
    parser.body_limit(limits_.max_body_bytes);
    set_deadline(limits_.header_seconds);
    const auto [ec, n] = co_await http::async_read_header(socket_, buffer_, parser, kTuple);
    clear_deadline();
    if (ec) {
      co_await refuse_bytes(ec);
      co_return false;
    }
    if (!read_head(parser)) {
      Reply refusal =
          reply(bad_request("expected at most one Host and one Authorization header, and a path as target"));
      co_await send_and_linger(std::move(refusal));
      co_return false;
    }
    auto admitted = hub_->service.admit(head_);
    if (auto* refusal = std::get_if<Reply>(&admitted)) {
      if (parser.is_done()) {
        co_return co_await send(std::move(*refusal));
      }
      co_await send_and_linger(std::move(*refusal));  // its body is not worth reading
      co_return false;
    }
    BodyBudget budget(hub_->bodies, limits_.max_bodies_bytes);
    const bool read = co_await read_body(parser, budget);
    if (!read) {
      co_return false;
    }
    const Admitted& a = std::get<Admitted>(admitted);
    const std::string body = std::move(parser.get().body());
    const bool waits = a.route == Route::slot_action || body.size() > kInlineBody;
    std::variant<Reply, GenerationRequest> outcome;
    if (waits) {
      outcome = co_await asio::co_spawn(hub_->workers, work(a, body), asio::use_awaitable);
    } else {
      outcome = hub_->service.handle(head_, a, body);
    }
    if (auto* plain = std::get_if<Reply>(&outcome)) {
      co_return co_await send(std::move(*plain));
    }
    const bool good = co_await generate(std::move(std::get<GenerationRequest>(outcome)), a.cache_salt);
    co_return good&& keep_alive_;
  }

  asio::awaitable<std::variant<Reply, GenerationRequest>> work(const Admitted& admitted,
                                                               const std::string& body) {
    co_return hub_->service.handle(head_, admitted, body);
  }

  bool read_head(Parser& parser) {
    const auto& message = parser.get();
    const auto value = [&](http::field name) -> std::optional<std::string> {
      const auto at = message.find(name);
      return at == message.end() ? std::nullopt : std::optional<std::string>(std::string(at->value()));
    };
    head_.method = std::string(message.method_string());
    head_.origin = value(http::field::origin);
    head_.authorization = value(http::field::authorization);
    if (const auto at = message.find("X-Api-Key"); at != message.end()) {
      head_.x_api_key = std::string(at->value());
    }
    head_only_ = message.method() == http::verb::head;
    http11_ = message.version() >= 11;
    keep_alive_ = message.keep_alive();
    return message.count(http::field::host) <= 1 && message.count(http::field::authorization) <= 1 &&
           hub_->service.parse_target(std::string(message.target()), head_);
  }

  asio::awaitable<bool> read_body(Parser& parser, BodyBudget& budget) {
    if (const auto length = parser.content_length(); length && !budget.grow_to(*length)) {
      Reply refusal = reply(unavailable("too many large requests at once", 1));
      co_await send_and_linger(std::move(refusal));
      co_return false;
    }
    if (!parser.is_done() && beast::iequals(parser.get()[http::field::expect], "100-continue")) {
      const bool sent = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) {
        co_return false;
      }
    }
    // A body has a fixed time and what its bytes take at the slowest rate: a byte now and then does not
    // prolong it.
    const auto begin = Clock::now();
    while (!parser.is_done()) {
      const auto n_body = static_cast<double>(parser.get().body().size());
      set_deadline(begin + seconds(limits_.body_seconds + n_body / limits_.min_body_rate));
      const auto [ec, n] = co_await http::async_read_some(socket_, buffer_, parser, kTuple);
      if (ec) {
        co_await refuse_bytes(ec);
        co_return false;
      }
      if (!budget.grow_to(parser.get().body().size())) {
        Reply refusal = reply(unavailable("too many large requests at once", 1));
        co_await send_and_linger(std::move(refusal));
        co_return false;
      }
    }
    clear_deadline();
    co_return true;
  }

  // The bytes are no request, or too many, or too slow; nothing when the client is simply gone.
  std::optional<Reply> refusal_of(error_code ec) {
    ApiError error = bad_request("expected an HTTP/1.1 request, found: " + ec.message());
    if (std::exchange(timed_out_, false)) {
      error.status = 408;
      error.message = "the request took too long to arrive";
    } else if (ec == http::error::body_limit) {
      error.status = 413;
      error.message = fmt::format("expected a body of at most {} bytes, found more", limits_.max_body_bytes);
    } else if (ec == http::error::header_limit) {
      error.status = 431;
      error.message =
          fmt::format("expected a header of at most {} bytes, found more", limits_.max_header_bytes);
    } else if (ec == http::error::end_of_stream || ec == http::error::partial_message ||
               ec.category() != make_error_code(http::error::end_of_stream).category()) {
      return std::nullopt;
    }
    return reply(error);
  }

  asio::awaitable<void> refuse_bytes(error_code ec) {
    std::optional<Reply> refusal = refusal_of(ec);
    if (refusal) {
      co_await send_and_linger(std::move(*refusal));
    }
  }

  // --- a generation

  // Reads while a reply is on its way: a client that leaves is seen here. Its end of file counts as leaving.
  void watch() {
    watching_ = true;
    auto seen = [self = shared_from_this()](error_code ec, size_t n) {
      self->watching_ = false;
      if (ec) {
        self->gone_ = self->gone_ || ec != asio::error::operation_aborted;
      } else {
        self->buffer_.commit(n);
        self->gone_ = self->gone_ || self->buffer_.size() > kMaxPipelined;  // nobody does that in good faith
        if (!self->gone_ && !self->unwatching_) {
          self->watch();
          return;
        }
      }
      self->wake_.cancel();
    };
    socket_.async_read_some(buffer_.prepare(kReadBytes),
                            asio::bind_cancellation_slot(watch_signal_.slot(), std::move(seen)));
  }

  asio::awaitable<void> unwatch() {
    unwatching_ = true;  // a read that has just succeeded cannot be cancelled, and must not begin another
    watch_signal_.emit(asio::cancellation_type::terminal);
    while (watching_) {
      wake_.expires_at(Clock::time_point::max());
      co_await wake_.async_wait(kTuple);
    }
    unwatching_ = false;
  }

  asio::awaitable<bool> generate(GenerationRequest request, uint64_t cache_salt) {
    auto context = hub_->service.context();
    if (context == nullptr) {
      Reply refusal = reply(unavailable("the server is shutting down", 1));
      co_return co_await send(std::move(refusal));
    }
    if (gone_) {
      co_return false;
    }
    auto wake = [self = shared_from_this()] {
      asio::post(self->socket_.get_executor(), [self] { self->wake_.cancel(); });
    };
    auto started = Job::start(std::move(context), std::move(request), cache_salt, std::move(wake));
    if (!started) {
      Reply refusal = reply(started.error());
      co_return co_await send(std::move(refusal));
    }
    const std::unique_ptr<Job> job = std::move(*started);
    watch();
    const bool good = co_await run_job(*job);
    co_await unwatch();
    co_return good && !gone_;
  }

  asio::awaitable<bool> run_job(Job& job) {
    bool head_sent = false;
    auto last_sent = Clock::now();
    std::string out;
    while (!gone_) {
      out.clear();
      job.poll(out);
      const bool failed = job.failed().has_value();
      if (failed && !head_sent) {
        Reply refusal = reply(*job.failed());
        co_return co_await send(std::move(refusal));
      }
      if (!job.stream()) {
        if (job.ended()) {
          Reply whole;
          whole.body = std::move(out);
          co_return co_await send(std::move(whole));
        }
      } else if (!out.empty() || (!head_sent && job.started())) {
        const bool last = job.ended() || failed;
        std::string bytes = head_sent ? "" : stream_head();
        head_sent = true;
        append_chunk(bytes, out, last, http11_);
        const bool sent = co_await write(bytes);
        if (!sent || last) {
          co_return sent;
        }
        last_sent = Clock::now();
        continue;  // there may be more by now
      }
      const bool pings = job.stream() && head_sent && job.ping_seconds() > 0;
      const auto ping_at =
          pings ? last_sent + std::chrono::seconds(job.ping_seconds()) : Clock::time_point::max();
      if (pings && Clock::now() >= ping_at) {
        std::string bytes;
        append_chunk(bytes, ":\n\n", false, http11_);
        const bool sent = co_await write(bytes);
        if (!sent) {
          co_return false;
        }
        last_sent = Clock::now();
        continue;
      }
      wake_.expires_at(ping_at);
      co_await wake_.async_wait(kTuple);
    }
    co_return false;
  }

  // --- replies

  std::string common_head(int status) {
    keep_alive_ = keep_alive_ && !closing_ && !hub_->service.stopping();
    hub_->service.metrics().count_status(status);
    std::string out = status_line(status);
    for (const auto& [key, value] : hub_->service.cors_headers(head_, false)) {
      append_header(out, key, value);
    }
    return out;
  }

  std::string stream_head() {
    keep_alive_ = keep_alive_ && http11_;
    std::string out = common_head(200);
    append_header(out, "Content-Type", "text/event-stream");
    append_header(out, "Cache-Control", "no-cache");
    append_header(out, "X-Accel-Buffering", "no");
    if (http11_) {
      append_header(out, "Transfer-Encoding", "chunked");
    }
    append_header(out, "Connection", keep_alive_ ? "keep-alive" : "close");
    out += "\r\n";
    return out;
  }

  // True when another request may follow.
  asio::awaitable<bool> send(Reply reply) {
    std::string bytes = common_head(reply.status);
    append_header(bytes, "Content-Type", reply.content_type);
    append_header(bytes, "Content-Length", std::to_string(reply.body.size()));
    for (const auto& [key, value] : reply.headers) {
      if (key != "Access-Control-Allow-Origin" && key != "Vary") {
        append_header(bytes, key, value);
      }
    }
    append_header(bytes, "Connection", keep_alive_ ? "keep-alive" : "close");
    bytes += "\r\n";
    if (!head_only_) {
      bytes += reply.body;
    }
    const bool sent = co_await write(bytes);
    co_return sent&& keep_alive_;
  }

  // A client that still sends would lose the reply to a reset: read for a while what it has to say.
  asio::awaitable<void> send_and_linger(Reply reply) {
    keep_alive_ = false;
    co_await send(std::move(reply));
    error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    set_deadline(kLingerSeconds);
    buffer_.clear();
    for (size_t n_read = 0; n_read < kLingerBytes;) {
      const auto [ec, n] = co_await socket_.async_read_some(buffer_.prepare(kReadBytes), kTuple);
      if (ec) {
        break;
      }
      n_read += n;
    }
  }

  asio::awaitable<bool> write(std::string_view bytes) {
    while (!bytes.empty()) {
      set_deadline(
          limits_.write_seconds);  // of each piece: a slow reader may go on, one that stopped may not
      const auto [ec, n] =
          co_await socket_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kTuple);
      if (ec) {
        gone_ = true;
        co_return false;
      }
      bytes.remove_prefix(n);
    }
    clear_deadline();
    co_return true;
  }

  std::shared_ptr<Hub> hub_;
  Socket socket_;
  const Limits& limits_;
  beast::flat_buffer buffer_;
  asio::steady_timer deadline_;
  Clock::time_point deadline_at_ = Clock::time_point::max();
  Clock::time_point armed_ = Clock::time_point::max();
  asio::steady_timer wake_;  ///< cancelled to wake the coroutine
  asio::cancellation_signal watch_signal_;
  RequestHead head_;
  bool head_only_ = false;
  bool http11_ = true;
  bool keep_alive_ = false;
  bool timed_out_ = false;
  bool idle_ = false;
  bool closing_ = false;  ///< after the reply
  bool gone_ = false;     ///< the client left, or the server closes now
  bool watching_ = false;
  bool unwatching_ = false;
};

size_t Hub::n_connections() {
  const std::scoped_lock lock(mutex);
  return connections.size();
}

namespace {

void close_each(Hub& hub, bool now) {
  std::vector<std::shared_ptr<Connection>> alive;
  {
    const std::scoped_lock lock(hub.mutex);
    for (Connection* connection : hub.connections) {
      if (auto held = connection->weak_from_this().lock()) {
        alive.push_back(std::move(held));
      }
    }
  }
  for (const auto& connection : alive) {
    connection->close(now);
  }
}

}  // namespace

void Hub::close_idle() {
  close_each(*this, false);
}

void Hub::close_all() {
  close_each(*this, true);
}

void serve(std::shared_ptr<Hub> hub, asio::generic::stream_protocol::socket socket) {
  std::make_shared<Connection>(std::move(hub), std::move(socket))->start();
}

}  // namespace fl::server
