#include "report/session.h"

#include <chrono>
#include <cstdlib>
#include <utility>

#include <fmt/format.h>

#include "report/machine.h"

namespace fl::report {
namespace {

using Clock = std::chrono::steady_clock;

void replace_all(std::string& text, std::string_view what, const std::string& with) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

// The process behind a URL of this machine.
pid_t local_process(const std::string& url) {
  const size_t host = url.find("://");
  const size_t begin = host == std::string::npos ? 0 : host + 3;
  const size_t end = url.find('/', begin);
  const std::string authority = url.substr(begin, end == std::string::npos ? end : end - begin);
  const size_t colon = authority.rfind(':');
  if (colon == std::string::npos) {
    return -1;
  }
  const std::string name = authority.substr(0, colon);
  if (name != "127.0.0.1" && name != "localhost" && name != "[::1]") {
    return -1;
  }
  return process_listening(static_cast<uint16_t>(std::strtoul(authority.c_str() + colon + 1, nullptr, 10)));
}

}  // namespace

Result<std::vector<std::string>> expand_command(const std::string& command_template, const ConfigSize& size,
                                                uint16_t port, const std::string& model) {
  FL_ASSIGN(std::vector<std::string> words, client::split_command(command_template));
  for (std::string& word : words) {
    replace_all(word, "{ctx}", std::to_string(size.ctx));
    replace_all(word, "{window}", std::to_string(size.window));
    replace_all(word, "{chats}", std::to_string(size.chats));
    replace_all(word, "{port}", std::to_string(port));
    replace_all(word, "{model}", model);
  }
  return words;
}

Status open_session(const Options& options, const ConfigSize& size, const std::string& model,
                    const std::string& api_key, const std::vector<std::string>& more,
                    const std::atomic<bool>* cancel, Session& session) {
  if (options.kind == "url") {
    FL_ASSIGN(session.endpoint, client::parse_endpoint(options.url, api_key));
    session.pid = local_process(session.endpoint.url);
    return {};
  }
  FL_ASSIGN(const uint16_t port, client::free_port());
  FL_ASSIGN(std::vector<std::string> words, expand_command(options.command_template, size, port, model));
  words.insert(words.end(), more.begin(), more.end());
  FL_ASSIGN(session.endpoint, client::parse_endpoint(fmt::format("http://127.0.0.1:{}", port), api_key));
  session.command = client::join_command(words);
  const auto start = Clock::now();
  FL_ASSIGN(session.process, client::ServerProcess::start(words));
  session.pid = session.process->pid();
  FL_TRY(session.process->wait_ready(session.endpoint, options.start_seconds, cancel));
  session.startup_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return {};
}

}  // namespace fl::report
