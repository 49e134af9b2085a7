// One client: requests in, replies out, one after the other. Runs as a coroutine on its own strand.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/service.h"

namespace fl::server {

class Connection;

/// What connections share beside the service.
struct Hub {
  explicit Hub(ServerOptions options) : service(std::move(options)) {}

  Service service;
  boost::asio::thread_pool workers{2};  ///< large bodies and calls that wait for the engine
  std::atomic<uint64_t> bodies{0};      ///< bytes of request bodies that are held
  int32_t max_connections = 0;

  std::mutex mutex;
  std::unordered_set<Connection*> connections;  ///< alive; guarded by the mutex

  size_t n_connections();
  /// Closes those that wait for a request, and tells the others to close after their reply.
  void close_idle();
  void close_all();
};

/// Takes over a connected socket whose executor is a strand of its own.
void serve(std::shared_ptr<Hub> hub, boost::asio::generic::stream_protocol::socket socket);

}  // namespace fl::server
