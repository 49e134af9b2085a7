#include "eval/extract.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

namespace fl::eval {
namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string_view trim_left(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t");
  return start == std::string_view::npos ? std::string_view{} : text.substr(start);
}

std::string_view without_thinking(std::string_view answer) {
  constexpr std::string_view kEnd = "</think>";
  const size_t end = answer.rfind(kEnd);
  if (end != std::string_view::npos) {
    return answer.substr(end + kEnd.size());
  }
  return trim_left(answer).starts_with("<think>") ? std::string_view{} : answer;  // never stopped thinking
}

// Bodies of ``` and ~~~ fences; an unclosed last one counts, it was cut or the closing fence forgotten.
std::vector<std::string> fenced_blocks(std::string_view text) {
  std::vector<std::string> blocks;
  std::string_view fence;
  std::string body;
  for (std::string_view line : lines_of(text)) {
    const std::string_view start = trim_left(line);
    if (fence.empty()) {
      if (start.starts_with("```") || start.starts_with("~~~")) {
        fence = start.substr(0, 3);
        body.clear();
      }
    } else if (start.starts_with(fence)) {
      blocks.push_back(body);
      fence = {};
    } else {
      body += line;
      body += '\n';
    }
  }
  if (!fence.empty() && !body.empty()) {
    blocks.push_back(body);
  }
  return blocks;
}

bool defines(std::string_view code, const std::string& name) {
  for (std::string_view line : lines_of(code)) {
    std::string_view rest = line;
    if (rest.starts_with("async ")) {
      rest.remove_prefix(6);
    }
    if (rest.starts_with("def " + name) && trim_left(rest.substr(4 + name.size())).starts_with('(')) {
      return true;
    }
    if (rest.starts_with(name) && trim_left(rest.substr(name.size())).starts_with('=')) {
      return true;  // name = lambda ...
    }
  }
  return false;
}

bool has_function(std::string_view code) {
  const std::vector<std::string_view> lines = lines_of(code);
  return std::any_of(lines.begin(), lines.end(), [](std::string_view line) {
    return line.starts_with("def ") || line.starts_with("async def ");
  });
}

// Everything of the stub in front of the entry point's own definition: imports, helper functions.
std::string preamble(const Task& task) {
  std::string text;
  for (std::string_view line : lines_of(task.prompt)) {
    if (line.starts_with("def " + task.entry_point)) {
      break;
    }
    text += line;
    text += '\n';
  }
  return text;
}

bool is_indented_body(std::string_view code) {
  for (std::string_view line : lines_of(code)) {
    if (!trim_left(line).empty()) {
      return line.starts_with("    ") || line.starts_with('\t');
    }
  }
  return false;
}

}  // namespace

std::optional<std::string> program_from_chat(const Task& task, std::string_view answer) {
  const std::string_view said = without_thinking(answer);
  const std::vector<std::string> blocks = fenced_blocks(said);
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (defines(*block, task.entry_point)) {
      return preamble(task) + "\n" + *block;
    }
  }
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (is_indented_body(*block)) {
      return task.prompt + *block;
    }
  }
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (has_function(*block)) {
      return preamble(task) + "\n" + *block;
    }
  }
  if (blocks.empty() && defines(said, task.entry_point)) {
    return preamble(task) + "\n" + std::string(said);
  }
  if (blocks.empty() && is_indented_body(said)) {
    return program_from_completion(task, said);
  }
  return std::nullopt;
}

std::string program_from_completion(const Task& task, std::string_view completion) {
  std::string body;
  bool inside_body = false;
  for (std::string_view line : lines_of(completion)) {
    const bool blank = trim_left(line).empty();
    const bool at_margin =
        !blank && line.front() != ' ' && line.front() != '\t' && line.front() != ')' && line.front() != '#';
    if (at_margin && inside_body) {
      break;
    }
    if (line.starts_with("```")) {
      break;
    }
    inside_body = inside_body || !blank;
    body += line;
    body += '\n';
  }
  return task.prompt + body;
}

std::string chat_question(const Task& task) {
  return fmt::format(
      "Complete the following Python function. Answer with the complete function in one Python code "
      "block.\n\n```python\n{}```",
      task.prompt);
}

}  // namespace fl::eval
