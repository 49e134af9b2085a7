#include "report/profiles.h"

#include <algorithm>

#include <fmt/format.h>

#include "client/server_process.h"
#include "report/assemble.h"

namespace fl::report {
namespace {

// One person's window may be as large as it costs at most this share of the best speed, when it is half full.
constexpr double kChatShare = 0.9;
// A long file may cost this much.
constexpr double kLongShare = 0.7;
// Of two configurations for many agents that differ less, the one with the larger windows.
constexpr double kSameTotal = 0.95;
constexpr const char* kNoModel = "MODEL.gguf";

bool measured(const Cell* cell) {
  return cell != nullptr && cell->status == "ok" && cell->decode_per_chat.has_value();
}

// The cell that tells most about work in a window: the deepest of those named that was measured.
const Cell* cell_at(const Document& document, int64_t ctx, int64_t chats,
                    std::initializer_list<const char*> depths) {
  for (const char* depth : depths) {
    if (const Cell* cell = find_cell(document, ctx, chats, depth); measured(cell)) {
      return cell;
    }
  }
  return nullptr;
}

std::string rate(double value) {
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
}

// The measured command without what belongs to the measurement: the program, the address.
std::vector<std::string> serve_args(const Document& document, const Cell& cell) {
  const std::string model = document.model.path.empty() ? kNoModel : document.model.path;
  std::vector<std::string> args;
  if (document.server.kind == "model") {
    if (const auto words = client::split_command(document.server.command_template)) {
      for (size_t i = 2; i < words->size(); ++i) {  // after "freelunch serve"
        const std::string& word = (*words)[i];
        if (word == "--host" || word == "--port") {
          ++i;
          continue;
        }
        args.push_back(word == "{model}"   ? model
                       : word == "{ctx}"   ? std::to_string(cell.ctx)
                       : word == "{chats}" ? std::to_string(cell.chats)
                                           : word);
      }
      return args;
    }
  }
  return {"--model", model, "--ctx-size", std::to_string(cell.ctx), "--parallel", std::to_string(cell.chats)};
}

std::string unit_of(const std::string& title, const std::vector<std::string>& args) {
  return fmt::format(
      "[Unit]\nDescription=freelunch: {}\nAfter=network-online.target\n\n[Service]\n"
      "ExecStart=/usr/bin/freelunch serve {} --host 127.0.0.1 --port 8080\nRestart=on-failure\n"
      "RestartPreventExitStatus=2 3 4 5\nDynamicUser=yes\nProtectSystem=strict\nProtectHome=read-only\n"
      "NoNewPrivileges=yes\n\n[Install]\nWantedBy=multi-user.target\n",
      title, client::join_command(args));
}

// What clients call the model: the first of its aliases where the measured command gives any.
std::string served_name(const Document& document, const std::vector<std::string>& args) {
  for (size_t i = 0; i + 1 < args.size(); ++i) {
    if (args[i] == "--alias" || args[i] == "-a") {
      return args[i + 1].substr(0, args[i + 1].find(','));
    }
  }
  return document.model.name.empty() ? "default" : document.model.name;
}

std::string snippet_of(const std::string& model, const Cell& cell) {
  if (cell.chats == 1) {
    return fmt::format(
        "from openai import OpenAI\n\nclient = OpenAI(base_url=\"http://127.0.0.1:8080/v1\", "
        "api_key=\"none\")\n"
        "answer = client.chat.completions.create(\n    model=\"{}\",\n"
        "    messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}],\n    stream=True)\n"
        "for part in answer:\n    print(part.choices[0].delta.content or \"\", end=\"\")\n",
        model);
  }
  return fmt::format(
      "import asyncio\nfrom openai import AsyncOpenAI\n\n"
      "client = AsyncOpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"none\")\n"
      "at_once = asyncio.Semaphore({})  # as many as the server has slots\n\n"
      "async def ask(text):\n    async with at_once:\n        answer = await "
      "client.chat.completions.create(\n"
      "            model=\"{}\", messages=[{{\"role\": \"user\", \"content\": text}}])\n"
      "        return answer.choices[0].message.content\n\n"
      "async def main():\n    print(await asyncio.gather(*(ask(f\"Task {{i}}\") for i in range({}))))\n\n"
      "asyncio.run(main())\n",
      cell.chats, model, cell.chats);
}

Profile make_profile(const Document& document, const char* name, const char* title, const Cell& cell,
                     std::string reason) {
  Profile out;
  out.name = name;
  out.title = title;
  out.reason = std::move(reason);
  out.ctx = cell.ctx;
  out.chats = cell.chats;
  out.args = serve_args(document, cell);
  out.serve_command = "freelunch serve " + client::join_command(out.args);
  out.llama_server_command = "llama-server " + client::join_command(out.args);
  const auto has = [&](std::string_view flag) {
    return std::find(out.args.begin(), out.args.end(), flag) != out.args.end();
  };
  if (!document.machine.gpus.empty() && !has("--n-gpu-layers")) {
    out.llama_server_command += " --n-gpu-layers 999 --flash-attn on";
  }
  out.systemd_unit = unit_of(title, out.args);
  out.client_snippet = snippet_of(served_name(document, out.args), cell);
  out.expected_decode_per_chat = cell.decode_per_chat->mean;
  if (cell.decode_total) {
    out.expected_decode_total = cell.decode_total->mean;
  }
  out.cell = cell.id;
  return out;
}

std::string filling_of(const Document& document, const Cell& cell) {
  if (cell.depth != "empty") {
    return fmt::format("with {} tokens in the window", cell.depth_tokens);
  }
  const Cell* filled = cell_at(document, cell.ctx, cell.chats, {"full", "half"});
  if (filled == nullptr || !filled->decode_total) {
    return "with an empty window (filled ones were not measured)";
  }
  return fmt::format("with an empty window, and {} tok/s with {} tokens in it",
                     rate(filled->decode_total->mean), filled->depth_tokens);
}

}  // namespace

std::vector<Profile> choose_profiles(const Document& document, const Recommendation& recommendation,
                                     const ChosenCells& chosen) {
  std::vector<Profile> out;
  if (document.chats.empty()) {
    return out;
  }
  const int64_t fewest = document.chats.front();
  double best = 0;
  for (const Cell& cell : document.cells) {
    if (cell.chats == fewest && measured(&cell)) {
      best = std::max(best, cell.decode_per_chat->mean);
    }
  }
  const Cell* chat = nullptr;
  const Cell* lengthy = nullptr;
  const Cell* largest = nullptr;
  for (const int64_t ctx : document.ctx) {
    const Cell* half = cell_at(document, ctx, fewest, {"half", "empty"});
    const Cell* full = cell_at(document, ctx, fewest, {"full", "half", "empty"});
    if (half != nullptr && (chat == nullptr || half->decode_per_chat->mean >= kChatShare * best)) {
      chat = half;
    }
    if (full != nullptr && (lengthy == nullptr || full->decode_per_chat->mean >= kLongShare * best)) {
      lengthy = full;
    }
    if (full != nullptr) {
      largest = full;
    }
  }
  const auto settle = [&](const char* name, const Cell*& cell) {
    const auto before = chosen.find(name);
    if (before == chosen.end()) {
      return;
    }
    const auto same = std::find_if(document.cells.begin(), document.cells.end(),
                                   [&](const Cell& each) { return each.id == before->second; });
    cell = same != document.cells.end() && measured(&*same) ? &*same : cell;
  };
  settle("chat", chat);
  settle("long-files", lengthy);
  settle("coding", largest);
  if (chat != nullptr) {
    const double share = chat->decode_per_chat->mean / best;
    out.push_back(make_profile(
        document, "chat", "One person", *chat,
        fmt::format("The largest context in which one chat keeps {} of its best speed: {} tok/s {}, {:.0f} %",
                    share >= kChatShare ? "90 %" : "most", rate(chat->decode_per_chat->mean),
                    filling_of(document, *chat), 100 * share)));
  }
  if (lengthy != nullptr) {
    out.push_back(make_profile(
        document, "long-files", "Long files", *lengthy,
        fmt::format("A window of {} tokens still writes {} tok/s {}, {:.0f} % of the best",
                    lengthy->ctx / lengthy->chats, rate(lengthy->decode_per_chat->mean),
                    filling_of(document, *lengthy), 100 * lengthy->decode_per_chat->mean / best)));
  }
  if (largest != nullptr) {
    out.push_back(make_profile(
        document, "coding", "Whole codebase", *largest,
        fmt::format("The largest window that ran: {} tokens, {} tok/s {}", largest->ctx / largest->chats,
                    rate(largest->decode_per_chat->mean), filling_of(document, *largest))));
  }
  // Many agents: the best total speed among the knees, as full as it was measured.
  const Cell* agents = nullptr;
  for (const Knee& knee : recommendation.knees) {
    const Cell* cell = find_cell(document, knee.ctx, knee.chats, knee.depth);
    if (knee.chats < 2 || !measured(cell) || !cell->decode_total) {
      continue;
    }
    const double total = cell->decode_total->mean;
    if (agents == nullptr || total > agents->decode_total->mean / kSameTotal ||
        (total >= kSameTotal * agents->decode_total->mean && cell->ctx > agents->ctx)) {
      agents = cell;
    }
  }
  settle("agents", agents);
  if (agents != nullptr) {
    out.push_back(
        make_profile(document, "agents", "Many agents", *agents,
                     fmt::format("{} chats together write {} tok/s, each in a window of {} tokens, {}",
                                 agents->chats, rate(agents->decode_total->mean), agents->ctx / agents->chats,
                                 filling_of(document, *agents))));
  }
  return out;
}

Result<Profile> read_profile(const std::string& report_path, std::string_view name) {
  FL_ASSIGN(const Document document, read_document(report_path));
  std::string names;
  for (const Profile& profile : document.recommendation.profiles) {
    if (profile.name == name) {
      return profile;
    }
    names += (names.empty() ? "" : ", ") + profile.name;
  }
  return fail(ErrorCode::invalid_argument, fmt::format("'{}' has no profile '{}'; it has: {}", report_path,
                                                       name, names.empty() ? "none" : names));
}

}  // namespace fl::report
