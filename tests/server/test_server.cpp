#include "tests/server/test_server.h"

#include <fstream>
#include <sstream>

#include <spdlog/spdlog.h>

#include "tests/tokenizer/small_vocabulary.h"

namespace fl::test {
namespace {

using tokenizer::TokenType;

std::string demo_template() {
  std::ifstream file(std::string(FL_SOURCE_DIR) + "/tests/chat/demo_template.jinja");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

tokenizer::Tokenizer small_tokenizer() {
  tokenizer::test::SmallVocabulary vocabulary;
  vocabulary.add("<|endoftext|>", TokenType::control);
  vocabulary.add("<|im_start|>", TokenType::control);
  vocabulary.add("<|im_end|>", TokenType::control);
  for (const char* text : {"<think>", "</think>", "<tool_call>", "</tool_call>"}) {
    vocabulary.add(text, TokenType::user_defined);
  }
  const std::string th = "th";
  vocabulary.merge("t", "h");
  vocabulary.merge(th, "e");
  vocabulary.merge("l", "o");
  return vocabulary
      .build([](gguf::Writer& writer) { writer.set("tokenizer.ggml.eos_token_id", uint32_t{258}); })
      .value();
}

TestServer::TestServer(World world)
    : world_(std::move(world)), tokenizer_(std::make_unique<tokenizer::Tokenizer>(small_tokenizer())) {
  spdlog::set_level(spdlog::level::off);
  auto listening = server::Server::listen(world_.options);
  if (!listening) {
    throw std::runtime_error(listening.error().message);
  }
  server_ = std::move(*listening);
  if (world_.load) {
    const Status set = server_->set_model(loaded());
    if (!set) {
      throw std::runtime_error(set.error().message);
    }
  }
  waiter_ = std::thread([this] { signal_ = server_->wait(); });
}

TestServer::~TestServer() {
  controls_->held = false;
  stop();
}

server::LoadedModel TestServer::loaded() {
  Scripts scripts;
  scripts.n_vocab = tokenizer_->n_vocab();
  scripts.eos = tokenizer_->eos();
  scripts.hash = tokenizer_->encode("#", tokenizer::Special::plain).front();
  scripts.digit0 = tokenizer_->encode("0", tokenizer::Special::plain).front();
  scripts.first_letter = tokenizer_->encode("a", tokenizer::Special::plain).front();
  for (const std::string& text : world_.scripts) {
    scripts.answers.push_back(tokenizer_->encode(text, tokenizer::Special::parse));
  }
  for (const auto& pieces : world_.tokens) {
    scripts.answers.emplace_back();
    for (const std::string& piece : pieces) {
      const auto ids = tokenizer_->encode(piece, tokenizer::Special::parse);
      scripts.answers.back().insert(scripts.answers.back().end(), ids.begin(), ids.end());
    }
  }
  auto runner = std::make_unique<ScriptRunner>(scripts, engine::runner_options(world_.engine, {}), controls_);
  return server::LoadedModel{
      .engine = std::make_unique<engine::Engine>(std::move(runner), world_.engine),
      .tokenizer = small_tokenizer(),
      .chat_template = world_.with_template
                           ? std::optional<chat::Template>(chat::Template::compile(demo_template()).value())
                           : std::nullopt,
      .n_params = 1234,
      .n_bytes = 5678,
      .ftype = "Q4_K - Medium",
  };
}

int TestServer::stop() {
  server_->request_stop();
  return join();
}

int TestServer::join() {
  if (waiter_.joinable()) {
    waiter_.join();
  }
  return signal_;
}

int TestServer::busy_slots() const {
  int busy = 0;
  for (const Json& slot : get("/slots").json()) {
    busy += slot.at("is_processing") == true ? 1 : 0;
  }
  return busy;
}

bool TestServer::idle_within(int ms) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (busy_slots() > 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

Json chat(const std::string& text) {
  return {{"messages", Json::array({{{"role", "user"}, {"content", text}}})}};
}

Spoken spoken(const std::string& body, int index) {
  Spoken out;
  for (const Json& event : events(body)) {
    if (event == "[DONE]") {
      out.done = true;
      continue;
    }
    EXPECT_FALSE(out.done);
    out.last = event;
    for (const Json& choice : event.value("choices", Json::array())) {
      if (choice.at("index") != index) {
        continue;
      }
      ++out.n_chunks;
      const Json& delta = choice.at("delta");
      if (delta.contains("content") && delta["content"].is_string()) {
        EXPECT_NE(delta["content"], "");
        out.content += delta["content"].get<std::string>();
      }
      if (delta.contains("reasoning_content")) {
        out.reasoning += delta["reasoning_content"].get<std::string>();
      }
      for (const Json& call : delta.value("tool_calls", Json::array())) {
        const auto at = call.at("index").get<size_t>();
        out.names.resize(std::max(out.names.size(), at + 1));
        out.arguments.resize(out.names.size());
        out.names[at] += call["function"].value("name", "");
        out.arguments[at] += call["function"].value("arguments", "");
      }
      if (choice.at("finish_reason").is_string()) {
        out.finish = choice["finish_reason"].get<std::string>();
      }
    }
  }
  return out;
}

}  // namespace fl::test
