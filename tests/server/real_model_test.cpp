// The whole way with a real, tiny model on the CPU: what a client gets does not depend on how it asks.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include "tests/model/harness.h"
#include "tests/server/test_server.h"
#include "tests/tokenizer/small_vocabulary.h"

namespace fl::server {
namespace {

using test::Json;
using test::RawClient;
using test::Response;

class RealModel : public testing::Test {
 protected:
  void SetUp() override {
    spdlog::set_level(spdlog::level::off);
    tokenizer::Tokenizer tokenizer = test::small_tokenizer();
    test::TinyModel tiny;
    tiny.vocab = tokenizer.n_vocab();
    const test::TempFile file;
    ASSERT_TRUE(test::draft_model(tiny).write(file.path()).has_value());
    engine::EngineOptions engine;
    engine.n_slots = 4;
    engine.n_ctx_slot = 512;
    engine.cache_generated = false;  // so that answers from the cache are the same to the last bit
    model::RunnerOptions base;
    base.n_threads = 1;
    auto runner = test::load(file.path(), engine::runner_options(engine, base));
    ASSERT_TRUE(runner.has_value()) << runner.error().message;
    ServerOptions options;
    options.port = 0;
    server_ = Server::listen(options).value();
    ASSERT_TRUE(
        server_->set_model(LoadedModel{.engine = std::make_unique<engine::Engine>(std::move(*runner), engine),
                                       .tokenizer = std::move(tokenizer)}));
    waiter_ = std::thread([this] { server_->wait(); });
  }
  void TearDown() override {
    server_->request_stop();
    waiter_.join();
  }
  Response post(const std::string& path, const Json& body) const {
    return RawClient(server_->port()).ask("POST", path, body.dump());
  }

  std::unique_ptr<Server> server_;
  std::thread waiter_;
};

TEST_F(RealModel, StreamedIsWholeIsParallel) {
  for (const int seed : {1, 2, 3}) {
    Json body = test::chat("Tell me, number " + std::to_string(seed));
    body.update({{"seed", seed}, {"temperature", 1.2}, {"max_tokens", 60}});
    const Response whole = post("/v1/chat/completions", body);
    ASSERT_EQ(whole.status, 200) << whole.body;
    const std::string content = whole.json()["choices"][0]["message"]["content"];
    EXPECT_FALSE(content.empty());
    body["stream"] = true;
    EXPECT_EQ(test::spoken(post("/v1/chat/completions", body).body).content, content);

    // Four at once, each as if alone: answer i uses seed + i.
    body["stream"] = false;
    body["n"] = 4;
    const Json four = post("/v1/chat/completions", body).json();
    EXPECT_EQ(four["choices"][0]["message"]["content"], content);
    body["n"] = 1;
    body["seed"] = seed + 3;
    EXPECT_EQ(post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"],
              four["choices"][3]["message"]["content"]);
  }
}

TEST_F(RealModel, LogprobsOfStreamAndWholeAgree) {
  const Json body = {
      {"prompt", "abcdef"}, {"n_predict", 30}, {"n_probs", 5}, {"temperature", 0}, {"return_tokens", true}};
  const Json whole = post("/completion", body).json();
  Json streaming = body;
  streaming["stream"] = true;
  Json probs = Json::array();
  std::string content;
  for (const Json& event : test::events(post("/completion", streaming).body)) {
    content += event["content"].get<std::string>();
    for (const Json& entry : event.value("completion_probabilities", Json::array())) {
      probs.push_back(entry);
    }
  }
  EXPECT_EQ(content, whole["content"]);
  EXPECT_EQ(probs, whole["completion_probabilities"]);
  double before = 1;
  for (const Json& entry : probs[0]["top_logprobs"]) {
    EXPECT_LE(entry["logprob"].get<double>(), before);
    before = entry["logprob"];
  }
  // The ids of the answer continue the prompt to the same answer.
  Json ids = post("/tokenize", {{"content", "abcdef"}}).json()["tokens"];
  for (int i = 0; i < 10; ++i) {
    ids.push_back(whole["tokens"][i]);
  }
  const Json rest =
      post("/completion", {{"prompt", ids}, {"n_predict", 20}, {"temperature", 0}, {"return_tokens", true}})
          .json();
  EXPECT_EQ(rest["tokens"], Json(std::vector<int32_t>(whole["tokens"].begin() + 10, whole["tokens"].end())));
}

}  // namespace
}  // namespace fl::server
