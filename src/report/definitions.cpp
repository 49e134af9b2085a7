// What each number of a report means, printed beside the numbers.
#include "report/assemble.h"

namespace fl::report {

std::vector<Definition> definitions(const Document& document) {
  const std::string counts = document.server.token_counts == "usage" ? "as the server's usage states them"
                             : document.server.token_counts == "tokenizer"
                                 ? "counted by the server's own tokenizer"
                                 : "estimated: one a chunk";
  return {
      {"decode tok/s per chat",
       "of one chat alone (answer tokens - 1) / (time of the last chunk - time of the first), seen by the "
       "client; of "
       "several their total / their number. The wait for the first token is not in it"},
      {"decode tok/s total",
       "answer tokens of all chats inside the time in which all of them decode, divided by that time"},
      {"prefill tok/s",
       "prompt tokens that were not cached, of all chats, divided by the time from sending to the last "
       "chat's first token"},
      {"TTFT",
       "time to first token: from sending the request to the first chunk with text, reasoning included"},
      {"gap", "time between two chunks with text of one chat, pooled over chats and repeats"},
      {"end-to-end", "from sending the request to the end of the answer"},
      {"p50, p95, p99", "linear between neighbours (type 7)"},
      {"repeat",
       "as many batches (one request of each chat, sent together) as write for a second where time and "
       "window allow, taken as one: the tokens of all of them by the time of all of them. Where time allows "
       "the whole matrix is walked once for each part of the repeats, so that those of one cell lie far "
       "apart, and at the end the cells that profiles rest on are measured again in turn, at least twice as "
       "often "
       "where time allows; otherwise a cell whose repeats spread gets up to twice as many"},
      {"spread",
       "coefficient of variation over repeats: sample standard deviation / mean; over 5 % is flagged: of "
       "decode tok/s, of prefill tok/s, and of joules per token where they are measured"},
      {"drift",
       "the first cell that was measured is measured again in the middle and at the end; a median that moved "
       "by "
       "more than 5 % is flagged"},
      {"state of the machine",
       "beside each repeat, while the server is idle: how long a word takes from one core to all others and "
       "back, halved; what all cores read from memory and the last cache, and multiply. Readings that lie "
       "together are a state; "
       "memory counts where the model is larger than the last cache. Not on a machine with a GPU, nor for a "
       "server at a URL"},
      {"context", "--ctx-size: tokens of all chats together; one chat's window is context / chats"},
      {"depth",
       "empty: the prompt is the only content; full: the window is filled up to the room for prompt and "
       "answer; half: "
       "half of that. The filling is a first turn, read once, then reused from the server's cache where it "
       "has one"},
      {"memory",
       "highest seen while the cell ran: of the device by NVML, otherwise resident memory of the server's "
       "processes"},
      {"joules per token", "energy of all devices by NVML over the repeat, prompt included, / answer tokens"},
      {"tokens", counts},
      {"cache-proof",
       "every prompt is new text from its first word on; what the server says it cached is shown"},
  };
}

}  // namespace fl::report
