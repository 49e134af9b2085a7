// What the forms share: the figures at the top and the tables, as text with the exact value beside it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/document.h"

namespace fl::report {

/// One figure at the top.
struct Figure {
  std::string label;
  std::string value;  ///< "44.9", "not measured"
  std::string unit;   ///< "tok/s"; empty: none
  std::string detail;
  std::optional<double> exact;
};

/// In this order: one chat, best total, first token, correct answers, memory, file size.
std::vector<Figure> figures(const Document& document);

struct TableCell {
  std::string text;
  std::string detail;           ///< smaller, behind or below the text
  std::optional<double> exact;  ///< the document's number
  std::string note;             ///< why there is no number, or what warns of it
};

struct Table {
  std::string id;
  std::string title;
  std::string caption;            ///< what the numbers are
  std::string detail_caption;     ///< what the details are
  std::vector<std::string> head;  ///< one more than numbers: the first names the row
  std::vector<std::vector<TableCell>> rows;
  bool numeric = true;  ///< columns but the first are right-aligned
};

/// Contexts x chats, one for each filling: tokens per second of all chats, and of each.
std::vector<Table> speed_matrices(const Document& document);
/// Contexts x chats: highest memory seen.
Table memory_matrix(const Document& document);
/// What holds the memory, by configuration; no rows when the server does not say.
Table memory_parts(const Document& document);
/// Every cell of one filling with its latencies and spread.
std::vector<Table> cell_tables(const Document& document);
/// Rows without a number are left out. Empty when there is no score.
Table quality_table(const Document& document);
/// Knees with equal words are one row.
Table knee_table(const Document& document);
Table largest_table(const Document& document);
/// Flags of the run, of cells by code with an example, and why cells are missing.
Table integrity_table(const Document& document);
/// Cell by cell, everything that its flags say.
Table warnings_table(const Document& document);
/// Name and value: model, machine, server, run.
std::vector<Table> fact_tables(const Document& document);

/// What holds a configuration's memory: at most kMostParts parts as the server states them, later ones added
/// to the last; sizes are held in [0, kMostBytes], since another's server says what it likes.
inline constexpr size_t kMostParts = 12;
inline constexpr int64_t kMostBytes = int64_t{1} << 50;
std::vector<MemoryPart> stated_parts(const Memory& memory);
int64_t sum_of(const std::vector<MemoryPart>& parts);

/// "valid: 279 of 279 requests ok; 1 cell of 45 carries a warning"
std::string integrity_sentence(const Document& document);
/// "2 chats, 32k, half full"
std::string place_name(int64_t ctx, int64_t chats, std::string_view depth);
/// "empty window", "half full", "full"
std::string depth_name(std::string_view depth);
/// The machine in a few words: its GPUs, else its CPU.
std::string device_name(const Document& document);
std::string model_name(const Document& document);

}  // namespace fl::report
