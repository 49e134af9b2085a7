// Starting, waiting for and ending a process that claims to be a server.
#include "client/server_process.h"

#include <fstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/scripted_server.h"

namespace fl::client {
namespace {

using testing::HasSubstr;

// Ended: not there, or there only until somebody asks for its exit status.
bool is_gone(const std::string& pid) {
  for (int i = 0; i < 100; ++i) {
    std::ifstream stat("/proc/" + pid + "/stat");
    std::string number;
    std::string name;
    std::string state;
    if (!(stat >> number >> name >> state) || state == "Z") {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

TEST(ServerProcess, SplitsAndJoinsCommands) {
  const auto words = split_command(R"(llama-server  -m 'a b.gguf' --x="q \" r" a\ b)");
  ASSERT_TRUE(words);
  EXPECT_THAT(*words, testing::ElementsAre("llama-server", "-m", "a b.gguf", "--x=q \" r", "a b"));
  EXPECT_EQ(*split_command(join_command(*words)), *words);
  EXPECT_FALSE(split_command("a 'b"));
  EXPECT_FALSE(split_command("   "));
  EXPECT_EQ(*split_command(join_command({"it's", ""})), (std::vector<std::string>{"it's", ""}));
}

TEST(ServerProcess, NamesAProgramThatIsNotThere) {
  const auto server = ServerProcess::start({"/nowhere/server"});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().code, ErrorCode::not_found);
  EXPECT_THAT(server.error().message, HasSubstr("/nowhere/server"));
}

TEST(ServerProcess, AnEarlyEndIsAnErrorWithTheLog) {
  auto server = ServerProcess::start({"sh", "-c", "echo no memory left >&2; exit 4"});
  ASSERT_TRUE(server);
  const auto ready = server->wait_ready(Endpoint{"http://127.0.0.1:9"}, 10, nullptr);
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, ErrorCode::does_not_fit);
  EXPECT_THAT(ready.error().message, HasSubstr("exit code 4"));
}

TEST(ServerProcess, ReadyWhenHealthAnswersAndEndedWithItsChildren) {
  int n_asked = 0;
  test::ScriptedServer answers([&](const std::string&) {
    const bool ready = ++n_asked > 2;
    return std::vector<test::ScriptedServer::Piece>{
        {ready ? test::ok_head("application/json") + "{}"
               : std::string("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")}};
  });
  auto server = ServerProcess::start({"sh", "-c", "sleep 1000 & echo child $!; wait"});
  ASSERT_TRUE(server);
  EXPECT_TRUE(server->wait_ready(Endpoint{answers.url()}, 10, nullptr));
  EXPECT_TRUE(server->running());
  const std::string log = server->log_tail(3);
  ASSERT_THAT(log, HasSubstr("child "));
  const std::string child = log.substr(log.find("child ") + 6);
  server->end();
  EXPECT_TRUE(is_gone(child)) << child;
  EXPECT_FALSE(server->running());
}

TEST(ServerProcess, CancelAndDeadline) {
  auto server = ServerProcess::start({"sleep", "1000"});
  ASSERT_TRUE(server);
  const Endpoint nobody{"http://127.0.0.1:9"};
  EXPECT_EQ(server->wait_ready(nobody, 0.1, nullptr).error().code, ErrorCode::network);
  const std::atomic<bool> cancel = true;
  EXPECT_EQ(server->wait_ready(nobody, 10, &cancel).error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace fl::client
