#include "server/server.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "server/connection.h"
#include "server/context.h"
#include "server/fields.h"

namespace fl::server {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Unix = asio::local::stream_protocol;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr int kDefaultThreads = 4;
constexpr int kMaxThreads = 64;
constexpr int kReservedDescriptors = 64;  ///< of RLIMIT_NOFILE, for all that is not a connection
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
constexpr auto kGoodbye = std::chrono::seconds(2);  ///< for last bytes after the engine is done
constexpr int kSignalBase = 128;

void apply_timeout(ServerOptions& options) {
  for (double* limit : {&options.limits.header_seconds, &options.limits.body_seconds,
                        &options.limits.idle_seconds, &options.limits.write_seconds}) {
    *limit = std::min(*limit, options.timeout_seconds);
  }
}

Status check_options(const ServerOptions& options) {
  if (options.hosts.empty()) {
    return fail(ErrorCode::invalid_argument, "--host: expected an address, found none");
  }
  if (!(options.timeout_seconds > 0)) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("--timeout: expected more than 0 seconds, found {}", options.timeout_seconds));
  }
  if (options.n_threads < 0 || options.n_threads > kMaxThreads) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("--threads-http: expected 0 to {}, found {}", kMaxThreads, options.n_threads));
  }
  if (!options.api_prefix.empty() &&
      (!options.api_prefix.starts_with('/') || options.api_prefix.ends_with('/'))) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("--api-prefix: expected a path that begins with / and does not end with it, found '{}'",
                    options.api_prefix));
  }
  for (const std::string& key : options.api_keys) {
    if (key.empty()) {
      return fail(ErrorCode::invalid_argument, "--api-key: expected a key, found an empty one");
    }
  }
  return check(options.defaults);
}

int32_t most_connections(int32_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const auto room =
        static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT32_MAX)) - kReservedDescriptors;
    wanted = static_cast<int32_t>(std::min<int64_t>(wanted, std::max<int64_t>(room, 1)));
  }
  return wanted;
}

}  // namespace

class Server::Impl {
 public:
  explicit Impl(ServerOptions options)
      : hub_(std::make_shared<Hub>(std::move(options))),
        stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    hub_->max_connections = most_connections(this->options().limits.max_connections);
  }

  ~Impl() {
    stop_now();
    if (stop_event_ >= 0) {
      ::close(stop_event_);
    }
  }

  const ServerOptions& options() const { return hub_->service.options(); }

  Status listen() {
    if (stop_event_ < 0) {
      return fail(ErrorCode::io, "eventfd failed");
    }
    for (const std::string& host : options().hosts) {
      FL_TRY(host.ends_with(".sock") ? listen_unix(host) : listen_tcp(host));
    }
    watch_stop();
    if (options().handle_signals) {
      signals_.emplace(strand_, SIGINT, SIGTERM);
      watch_signals();
    }
    const int n = options().n_threads > 0 ? options().n_threads : kDefaultThreads;
    for (int i = 0; i < n; ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
    return {};
  }

  Status set_model(LoadedModel model) {
    FL_ASSIGN(auto context, Context::make(options(), hub_->service.metrics(), std::move(model)));
    engine::Engine& engine = context->engine();
    hub_->service.set_context(std::move(context));
    engine.on_device_lost([this] {
      device_lost_ = true;
      spdlog::error("the device is lost: stopping");
      request_stop();
    });
    return {};
  }

  int wait() {
    {
      std::unique_lock lock(mutex_);
      stopped_.wait(lock, [&] { return stop_seen_; });
    }
    hub_->close_idle();
    if (const auto context = hub_->service.context()) {
      context->engine().drain(options().limits.drain_seconds);
    }
    // The last events are on their way to the sockets.
    const auto deadline = std::chrono::steady_clock::now() + kGoodbye;
    while (hub_->n_connections() > 0 && std::chrono::steady_clock::now() < deadline) {
      hub_->close_idle();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    stop_now();
    return signal_;
  }

  void request_stop() noexcept {
    stop_requested_ = true;
    const uint64_t one = 1;
    // Async-signal-safe; a full counter means that it is signalled already.
    [[maybe_unused]] const auto n = ::write(stop_event_, &one, sizeof one);
  }
  bool stopping() const noexcept { return stop_requested_; }
  bool device_lost() const noexcept { return device_lost_; }

  uint16_t port() const { return port_; }
  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  Status listen_tcp(const std::string& host) {
    error_code ec;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(host, std::to_string(options().port),
                                        tcp::resolver::passive | tcp::resolver::numeric_service, ec);
    if (ec) {
      return fail(ErrorCode::address, fmt::format("--host: cannot resolve '{}': {}", host, ec.message()));
    }
    bool any = false;
    error_code last;
    for (const auto& entry : found) {
      tcp::endpoint endpoint = entry.endpoint();
      if (port_ != 0) {
        endpoint.port(port_);  // one free port for all addresses of a name
      }
      tcp::acceptor acceptor(strand_);
      acceptor.open(endpoint.protocol(), last);
      if (last) {
        continue;
      }
      acceptor.set_option(tcp::acceptor::reuse_address(true), last);
      if (options().reuse_port) {
        using ReusePort = asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>;
        acceptor.set_option(ReusePort(true), last);
      }
      if (endpoint.address().is_v6()) {
        acceptor.set_option(asio::ip::v6_only(true), last);
      }
      acceptor.bind(endpoint, last);
      if (!last) {
        acceptor.listen(tcp::acceptor::max_listen_connections, last);
      }
      if (last == asio::error::address_in_use) {
        return fail(ErrorCode::address, fmt::format("port {} on {} is in use", endpoint.port(), host));
      }
      if (last) {
        continue;
      }
      any = true;
      port_ = acceptor.local_endpoint().port();
      const std::string shown = endpoint.address().is_v6() ? "[" + endpoint.address().to_string() + "]"
                                                           : endpoint.address().to_string();
      addresses_.push_back(fmt::format("http://{}:{}", shown, port_));
      start_accepting(tcp_.emplace_back(std::move(acceptor)));
    }
    if (!any) {
      return fail(ErrorCode::address,
                  fmt::format("cannot listen on {} port {}: {}", host, options().port, last.message()));
    }
    return {};
  }

  Status listen_unix(const std::string& path) {
    error_code ec;
    const Unix::endpoint endpoint(path);
    Unix::socket probe(io_);
    probe.connect(endpoint, ec);
    if (!ec) {
      return fail(ErrorCode::address, fmt::format("the socket {} is in use", path));
    }
    if (ec == asio::error::connection_refused) {
      ::unlink(path.c_str());  // left by a server that is gone
    }
    Unix::acceptor acceptor(strand_);
    acceptor.open(Unix(), ec);
    if (!ec) {
      acceptor.bind(endpoint, ec);
    }
    if (!ec) {
      acceptor.listen(Unix::acceptor::max_listen_connections, ec);
    }
    if (ec) {
      return fail(ErrorCode::address, fmt::format("cannot listen on {}: {}", path, ec.message()));
    }
    unix_paths_.push_back(path);
    addresses_.push_back("unix:" + path);
    start_accepting(unix_.emplace_back(std::move(acceptor)));
    return {};
  }

  // Acceptors live in lists whose elements do not move.
  template <typename Acceptor>
  void start_accepting(Acceptor& acceptor) {
    asio::co_spawn(strand_, accept_loop(acceptor), asio::detached);
  }

  template <typename Acceptor>
  asio::awaitable<void> accept_loop(Acceptor& acceptor) {
    asio::steady_timer pause(strand_);
    while (!stop_requested_) {
      auto [ec, socket] = co_await acceptor.async_accept(asio::make_strand(io_), kTuple);
      if (stop_requested_ || ec == asio::error::operation_aborted) {
        break;
      }
      if (ec) {
        // No descriptors or memory: those who are here go on; look again soon.
        pause.expires_after(kAcceptPause);
        co_await pause.async_wait(kTuple);
        continue;
      }
      asio::generic::stream_protocol::socket generic(std::move(socket));
      if (static_cast<int64_t>(hub_->n_connections()) >= hub_->max_connections) {
        turn_away(generic);
        continue;
      }
      serve(hub_, std::move(generic));
    }
  }

  // One try, without waiting: the client is told, or it is not.
  static void turn_away(asio::generic::stream_protocol::socket& socket) {
    const std::string body = server::body(unavailable("too many connections", 1));
    const std::string bytes = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; "
        "charset=utf-8\r\nContent-Length: "
        "{}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{}",
        body.size(), body);
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(bytes), ignored);
    socket.shutdown(asio::socket_base::shutdown_send, ignored);
  }

  void watch_stop() {
    stop_watch_.emplace(strand_, ::dup(stop_event_));
    stop_watch_->async_wait(asio::posix::stream_descriptor::wait_read, [this](error_code ec) {
      if (ec) {
        return;
      }
      stop_requested_ = true;
      hub_->service.stop();
      error_code ignored;
      for (auto& acceptor : tcp_) {
        acceptor.close(ignored);
      }
      for (auto& acceptor : unix_) {
        acceptor.close(ignored);
      }
      {
        const std::scoped_lock lock(mutex_);
        stop_seen_ = true;
      }
      stopped_.notify_all();
    });
  }

  void watch_signals() {
    signals_->async_wait([this](error_code ec, int signal) {
      if (ec) {
        return;
      }
      if (signal_ != 0 || hub_->service.context() == nullptr) {
        std::_Exit(kSignalBase + signal);  // asked twice, or nothing to finish yet
      }
      signal_ = signal;
      spdlog::info(
          "stopping: no new requests; running ones have {} seconds; a second signal ends the process",
          options().limits.drain_seconds);
      request_stop();
      watch_signals();
    });
  }

  void await_no_connections() {
    const auto deadline = std::chrono::steady_clock::now() + kGoodbye;
    while (!threads_.empty() && hub_->n_connections() > 0 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void stop_now() {
    request_stop();
    hub_->service.stop();
    hub_->close_all();
    // Connections end by themselves once their operations are cancelled and the workers have nothing for
    // them; then nothing refers to the engine.
    await_no_connections();
    hub_->workers.join();
    await_no_connections();
    io_.stop();
    for (std::thread& thread : threads_) {
      thread.join();
    }
    threads_.clear();
    if (const auto context = hub_->service.context()) {
      context->engine().on_device_lost({});
    }
    hub_->service.set_context(nullptr);
    for (const std::string& path : unix_paths_) {
      ::unlink(path.c_str());
    }
    unix_paths_.clear();
  }

  std::shared_ptr<Hub> hub_;
  asio::io_context io_;
  asio::strand<asio::io_context::executor_type> strand_{io_.get_executor()};  ///< acceptors, signals, the end
  std::list<tcp::acceptor> tcp_;
  std::list<Unix::acceptor> unix_;
  std::vector<std::string> unix_paths_;
  std::vector<std::string> addresses_;
  uint16_t port_ = 0;
  int stop_event_;
  std::optional<asio::posix::stream_descriptor> stop_watch_;
  std::optional<asio::signal_set> signals_;
  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> device_lost_{false};
  std::atomic<int> signal_{0};
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_seen_ = false;
  std::vector<std::thread> threads_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::listen(ServerOptions options) {
  FL_TRY(check_options(options));
  apply_timeout(options);
  auto impl = std::make_unique<Impl>(std::move(options));
  FL_TRY(impl->listen());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

uint16_t Server::port() const {
  return impl_->port();
}
std::vector<std::string> Server::addresses() const {
  return impl_->addresses();
}
Status Server::set_model(LoadedModel model) {
  return impl_->set_model(std::move(model));
}
int Server::wait() {
  return impl_->wait();
}
void Server::request_stop() noexcept {
  impl_->request_stop();
}
bool Server::device_lost() const noexcept {
  return impl_->device_lost();
}
bool Server::stopping() const noexcept {
  return impl_->stopping();
}

}  // namespace fl::server
