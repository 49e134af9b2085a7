// A document whose every text is an attack on the form that prints it.
#pragma once

#include <string>

#include "report/document.h"

namespace fl::report::test {

inline const std::string kHostile =
    "</script><script>alert(1)</script>\"' onload=x <img src=http://evil.example/x> ]]> | `a` **b** "
    "[c](javascript:d)\x1b[31m\x07\x9b\xff\xe2\x80\xae"
    "evil\nsecond line";

inline Document hostile_document(Document document) {
  document.headline.verdict = document.headline.recap = kHostile;
  document.model.name = document.model.path = document.model.quantisation = document.model.hash = kHostile;
  document.machine.cpu = document.machine.os = document.server.name = document.server.version = kHostile;
  document.server.command_template = document.server.token_counts = document.run.command = kHostile;
  document.server.notes = document.run.plan.decisions = {kHostile, kHostile};
  for (Gpu& gpu : document.machine.gpus) {
    gpu.name = gpu.driver = kHostile;
  }
  for (Cell& cell : document.cells) {
    cell.flags.push_back({kHostile, kHostile});
    cell.reason = kHostile;
    cell.memory.basis = kHostile;
  }
  for (Configuration& each : document.configurations) {
    each.error = each.command = kHostile;
    each.memory.parts.push_back({kHostile, int64_t{1} << 30});
  }
  for (Finding& finding : document.findings) {
    finding.title = finding.text = kHostile;
  }
  for (Profile& profile : document.recommendation.profiles) {
    profile.name = profile.title = profile.reason = profile.serve_command = kHostile;
    profile.llama_server_command = profile.systemd_unit = profile.client_snippet = kHostile + "\n```\n# out";
  }
  for (Knee& knee : document.recommendation.knees) {
    knee.limit = knee.text = kHostile;
  }
  for (LargestContext& each : document.recommendation.largest) {
    each.text = kHostile;
  }
  for (Definition& definition : document.definitions) {
    definition.term = definition.text = kHostile;
  }
  if (document.quality) {
    document.quality->tasks = document.quality->mode = document.quality->reason = kHostile;
  }
  document.integrity.flags.push_back({kHostile, kHostile});
  document.integrity.reason = kHostile;
  return document;
}

}  // namespace fl::report::test
