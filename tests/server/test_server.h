// A server on a scripted model, on loopback at a free port.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/server.h"
#include "tests/server/raw_client.h"
#include "tests/server/script_runner.h"

namespace fl::test {

struct World {
  server::ServerOptions options;
  engine::EngineOptions engine;
  std::vector<std::string> scripts;              ///< by digit; special tokens are parsed
  std::vector<std::vector<std::string>> tokens;  ///< instead: the tokens one by one, each a text
  bool with_template = true;                     ///< tests/chat/demo_template.jinja, else ChatML
  bool load = true;                              ///< set the model at once

  World() {
    options.port = 0;
    options.aliases = {"tiny"};
    options.defaults.sampling.temperature = 0;
    engine.n_slots = 4;
    engine.n_ctx_slot = 1024;
  }
};

class TestServer {
 public:
  explicit TestServer(World world = {});
  ~TestServer();

  uint16_t port() const { return server_->port(); }
  server::Server& server() { return *server_; }
  ScriptRunner::Controls& controls() { return *controls_; }
  const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }
  server::LoadedModel loaded();
  /// Requests a stop and waits for the end; the number of the signal.
  int stop();
  /// Waits until something else stops it.
  int join();

  Response ask(const std::string& method, const std::string& target, const std::string& body = "",
               const std::string& headers = "") const {
    RawClient client(port());
    return client.ask(method, target, body, headers);
  }
  Response get(const std::string& target) const { return ask("GET", target); }
  Response post(const std::string& target, const Json& body) const {
    return ask("POST", target, body.dump());
  }
  Response post_text(const std::string& target, const std::string& body) const {
    return ask("POST", target, body);
  }
  /// Waits until no slot is busy and nothing is queued; false after `ms`.
  bool idle_within(int ms) const;
  int busy_slots() const;

 private:
  World world_;
  std::shared_ptr<ScriptRunner::Controls> controls_ = std::make_shared<ScriptRunner::Controls>();
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::unique_ptr<server::Server> server_;
  std::thread waiter_;
  int signal_ = -1;
};

/// A chat request with one user message.
Json chat(const std::string& text);
/// The tokens of a small vocabulary with the family's special tokens, the same each time.
tokenizer::Tokenizer small_tokenizer();

/// What a stream of chat chunks adds up to.
struct Spoken {
  std::string content, reasoning, finish;
  std::vector<std::string> names, arguments;
  int n_chunks = 0;
  Json last;  ///< the last JSON chunk
  bool done = false;
};
Spoken spoken(const std::string& body, int index = 0);

}  // namespace fl::test
