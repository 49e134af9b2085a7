// Any head and any body of a request: a reply that is valid JSON with a status, or a generation within the
// model's limits. The first line of the input is "METHOD target"; the rest is the body.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/service.h"
#include "tests/server/script_runner.h"
#include "tests/server/test_server.h"

namespace {

using namespace fl;
using namespace fl::server;

constexpr const char* kTemplate =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}";

std::unique_ptr<Service> make_service() {
  spdlog::set_level(spdlog::level::off);
  ServerOptions options;
  options.aliases = {"tiny"};
  options.metrics = true;
  auto service = std::make_unique<Service>(options);
  engine::EngineOptions engine;
  engine.n_slots = 2;
  engine.n_ctx_slot = 256;
  tokenizer::Tokenizer tokenizer = test::small_tokenizer();
  test::Scripts scripts;
  scripts.n_vocab = tokenizer.n_vocab();
  scripts.eos = tokenizer.eos();
  auto runner = std::make_unique<test::ScriptRunner>(scripts, engine::runner_options(engine, {}),
                                                     std::make_shared<test::ScriptRunner::Controls>());
  auto context =
      Context::make(service->options(), service->metrics(),
                    LoadedModel{.engine = std::make_unique<engine::Engine>(std::move(runner), engine),
                                .tokenizer = std::move(tokenizer),
                                .chat_template = chat::Template::compile(kTemplate).value(),
                                .n_params = 1,
                                .n_bytes = 1,
                                .ftype = "F32"});
  if (!context) {
    std::abort();
  }
  service->set_context(*context);
  return service;
}

void check(const Reply& reply) {
  if (reply.status < 100 || reply.status > 599) {
    std::abort();
  }
  if (reply.content_type.starts_with("application/json") && !nlohmann::json::accept(reply.body)) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Service> kService = make_service();
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(input.find('\n'), input.size());
  const std::string_view first = input.substr(0, line);
  const std::string body(input.substr(std::min(line + 1, input.size())));
  const size_t space = std::min(first.find(' '), first.size());
  RequestHead head;
  head.method = first.substr(0, space);
  if (!kService->parse_target(first.substr(std::min(space + 1, first.size())), head)) {
    return 0;
  }
  const auto admitted = kService->admit(head);
  if (const auto* reply = std::get_if<Reply>(&admitted)) {
    check(*reply);
    return 0;
  }
  const auto answer = kService->handle(head, std::get<Admitted>(admitted), body);
  if (const auto* reply = std::get_if<Reply>(&answer)) {
    check(*reply);
    return 0;
  }
  const auto& request = std::get<GenerationRequest>(answer);
  for (const auto& prompt : request.prompts) {
    for (const int32_t id : prompt) {
      if (id < 0 || id >= kService->context()->tokenizer().n_vocab()) {
        std::abort();
      }
    }
  }
  return 0;
}
