// Clients that leave, that do not read, that are too many; and a server that is stopped.
#include <sys/wait.h>
#include <csignal>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::chat;
using test::Json;
using test::RawClient;
using test::Response;
using test::TestServer;
using test::World;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

// What the design asks for; the machine that runs the test may be busy.
constexpr int kSlotFreeMs = 250;
constexpr int kPatience = 20;  ///< times that

std::string endless(bool stream) {
  return RawClient::bytes("POST", "/completion",
                          Json({{"prompt", "abc"}, {"n_predict", 900}, {"stream", stream}}).dump());
}

bool busy_within(const TestServer& server, int ms, int n = 1) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(ms);
  while (server.busy_slots() < n) {
    if (Clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

TEST(Leaving, FreesTheSlot) {
  TestServer server;
  server.controls().step_us = 20'000;  // 900 tokens would take 18 seconds
  for (const bool stream : {true, false}) {
    for (const bool reset : {true, false}) {
      RawClient client(server.port());
      client.send(endless(stream));
      ASSERT_TRUE(busy_within(server, 5000));
      if (stream) {
        ASSERT_TRUE(client.receive_until("data: "));
      }
      reset ? client.reset() : client.close();
      EXPECT_TRUE(server.idle_within(kSlotFreeMs * kPatience)) << stream << reset;
    }
  }
}

// Counted in steps of the engine, not in time: from the moment that the server has seen the client leave,
// only the step that was running then is finished. How long the seeing takes on a quiet machine is in
// docs/decisions/0080.
TEST(Leaving, CostsAtMostTheStepThatRuns) {
  World world;
  world.options.metrics = true;
  TestServer server(world);
  const auto connections = [&] {  // besides the one that asks
    const std::string page = server.get("/metrics").body;
    const std::string name = "\nllamacpp:connections ";
    const size_t at = page.find(name);
    return at == std::string::npos ? -1 : std::stoi(page.substr(at + name.size())) - 1;
  };
  for (const bool stream : {true, false}) {
    for (const bool reset : {true, false}) {
      server.controls().step_us = 1000;
      RawClient client(server.port());
      client.send(endless(stream));
      ASSERT_TRUE(busy_within(server, 5000));
      if (stream) {
        ASSERT_TRUE(client.receive_until("data: "));
      }
      server.controls().held = true;  // the step that runs, or the next one, does not end
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      reset ? client.reset() : client.close();
      bool seen = false;
      for (int i = 0; i < 5000 && !seen; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        seen = connections() == 0;
      }
      ASSERT_TRUE(seen) << stream << reset;
      EXPECT_EQ(server.busy_slots(), 1);
      const int64_t seen_at = server.controls().n_steps;
      server.controls().held = false;
      ASSERT_TRUE(server.idle_within(kSlotFreeMs * kPatience)) << stream << reset;
      EXPECT_LE(server.controls().n_steps - seen_at, 1) << stream << reset;
    }
  }
}

TEST(Leaving, WhileQueuedOrInThePrompt) {
  World world;
  world.engine.n_slots = 1;
  world.engine.max_step_tokens = 64;
  world.options.metrics = true;
  TestServer server(world);
  server.controls().step_us = 10'000;
  RawClient running(server.port());
  running.send(endless(true));
  ASSERT_TRUE(running.receive_until("data: "));
  {
    RawClient queued(server.port());
    queued.send(endless(true));
    for (int i = 0;
         i < 1000 && server.get("/metrics").body.find("requests_deferred 1\n") == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  running.close();
  EXPECT_TRUE(server.idle_within(kSlotFreeMs * kPatience));
  RawClient reading(server.port());
  reading.send(RawClient::bytes("POST", "/completion",
                                Json({{"prompt", std::string(900, 'x')}, {"stream", true}}).dump()));
  ASSERT_TRUE(busy_within(server, 5000));
  reading.close();
  EXPECT_TRUE(server.idle_within(kSlotFreeMs * kPatience));
}

TEST(Leaving, OneOfSeveralAnswersEndsThemAll) {
  TestServer server;
  server.controls().step_us = 20'000;
  RawClient client(server.port());
  client.send(RawClient::bytes(
      "POST", "/v1/completions",
      Json({{"prompt", {"ab", "cd"}}, {"n", 2}, {"max_tokens", 900}, {"stream", true}}).dump()));
  ASSERT_TRUE(busy_within(server, 5000, 4));
  client.close();
  EXPECT_TRUE(server.idle_within(kSlotFreeMs * kPatience));
}

TEST(Leaving, ManyClientsAtRandomBytes) {
  TestServer server;
  server.controls().step_us = 200;
  std::mt19937 random(3);
  std::vector<std::thread> threads;
  std::atomic<int> n_served{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, seed = random()] {
      std::mt19937 mine(seed);
      for (int i = 0; i < 40; ++i) {
        RawClient client(server.port());
        const std::string bytes = RawClient::bytes("POST", "/v1/chat/completions", [&] {
          Json body = chat("hello " + std::to_string(mine() % 5));
          body["stream"] = mine() % 2 == 0;
          body["max_tokens"] = 40;
          return body.dump();
        }());
        const auto how = mine() % 4;
        client.send(how == 0 ? bytes.substr(0, mine() % bytes.size()) : bytes);
        if (how == 1) {
          client.receive(5);
        } else if (how == 2) {
          n_served += client.response().status == 200 ? 1 : 0;
        }
        mine() % 2 == 0 ? client.reset() : client.close();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_GT(n_served, 0);
  EXPECT_TRUE(server.idle_within(kSlotFreeMs * kPatience));
}

TEST(SlowReaders, PauseTheirOwnSequenceOnly) {
  World world;
  world.engine.n_slots = 2;
  world.engine.n_ctx_slot = 16 * 1024;
  world.options.limits.write_seconds = 60;
  TestServer server(world);
  RawClient sleeper(server.port(), 4096);
  // Probabilities make each event large, so that the sockets are full soon.
  sleeper.send(RawClient::bytes(
      "POST", "/completion",
      Json({{"prompt", "abc"}, {"n_predict", 1000}, {"n_probs", 20}, {"stream", true}}).dump()));
  ASSERT_TRUE(busy_within(server, 5000));
  // Its sequence comes to rest.
  int64_t before = -1;
  bool resting = false;
  for (int i = 0; i < 200 && !resting; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const int64_t now = server.controls().n_steps;
    resting = now == before;
    before = now;
  }
  EXPECT_TRUE(resting);
  EXPECT_EQ(server.busy_slots(), 1);
  const Json slots = server.get("/slots").json();
  EXPECT_LT(slots[0]["next_token"][0]["n_decoded"].get<int>() + slots[1].value("n_prompt_tokens", 0), 900);
  // Others are served meanwhile.
  EXPECT_EQ(server.post("/completion", {{"prompt", "xyz"}, {"n_predict", 50}}).json()["tokens_predicted"],
            50);
  // It goes on when it is read.
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (sleeper.buffer().find("\"stop\":true") == std::string::npos && Clock::now() < deadline &&
         sleeper.receive()) {
  }
  EXPECT_THAT(sleeper.buffer().substr(sleeper.buffer().size() - 4000), HasSubstr("\"stop\":true"));
}

TEST(SlowReaders, AreClosedAfterAWhile) {
  World world;
  world.engine.n_ctx_slot = 16 * 1024;
  world.options.limits.write_seconds = 0.5;
  TestServer server(world);
  RawClient sleeper(server.port(), 4096);
  sleeper.send(RawClient::bytes(
      "POST", "/completion",
      Json({{"prompt", "abc"}, {"n_predict", 15000}, {"n_probs", 20}, {"stream", true}}).dump()));
  ASSERT_TRUE(busy_within(server, 5000));
  EXPECT_TRUE(server.idle_within(20'000));
}

TEST(Overload, TheSurplusIsToldToComeBack) {
  World world;
  world.engine.n_slots = 1;
  world.engine.max_queue = 4;
  TestServer server(world);
  server.controls().held = true;
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 30; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.port()));
    clients.back()->send(RawClient::bytes("POST", "/completion", R"({"prompt":"abc","n_predict":3})"));
  }
  // The refused are answered while the held ones wait.
  int refused = 0;
  std::vector<RawClient*> held;
  for (const auto& client : clients) {
    if (client->receive(refused + static_cast<int>(held.size()) == 0 ? 500 : 100)) {
      const Response response = client->response();
      EXPECT_EQ(response.status, 503);
      EXPECT_NE(response.header("retry-after"), "");
      EXPECT_EQ(response.json()["error"]["type"], "unavailable_error");
      ++refused;
    } else {
      held.push_back(client.get());
    }
  }
  EXPECT_EQ(refused, 25);
  server.controls().held = false;
  for (RawClient* client : held) {
    EXPECT_EQ(client->response().status, 200);
  }
}

TEST(Overload, TwoHundredConnectionsAtOnce) {
  World world;
  world.scripts = {"</think>\n\nall the same"};
  TestServer server(world);
  std::vector<std::unique_ptr<RawClient>> clients;
  Json body = chat("#0");
  body["stream"] = true;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.port()));
    ASSERT_TRUE(clients.back()->connected());
    clients.back()->send(RawClient::bytes("POST", "/v1/chat/completions", body.dump()));
  }
  for (const auto& client : clients) {
    const Response response = client->response();
    ASSERT_EQ(response.status, 200);
    EXPECT_EQ(test::spoken(response.body).content, "all the same");
  }
}

TEST(Pings, KeepASilentStreamAlive) {
  World world;
  world.scripts = {"ab"};
  TestServer server(world);
  RawClient client(server.port());
  server.controls().step_us = 1'200'000;
  client.send(
      RawClient::bytes("POST", "/completion", R"({"prompt":"#0","stream":true,"sse_ping_interval":1})"));
  EXPECT_THAT(client.response().body, HasSubstr(":\n\n"));
}

TEST(Draining, RunningAnswersAreFinished) {
  World world;
  world.options.limits.drain_seconds = 30;
  TestServer server(world);
  server.controls().step_us = 1000;
  RawClient client(server.port());
  client.send(RawClient::bytes("POST", "/completion", R"({"prompt":"abc","n_predict":300,"stream":true})"));
  ASSERT_TRUE(client.receive_until("data: "));
  RawClient idle(server.port());
  EXPECT_EQ(idle.ask("GET", "/health").status, 200);
  std::thread stopper([&] { server.stop(); });
  EXPECT_TRUE(idle.closed_within(5000));
  const Response response = client.response();
  stopper.join();
  EXPECT_EQ(response.header("content-type"), "text/event-stream");
  EXPECT_EQ(test::events(response.body).back()["tokens_predicted"], 300);
  EXPECT_FALSE(RawClient(server.port()).connected());
}

TEST(Draining, WhatTakesTooLongEndsWithAnError) {
  World world;
  world.options.limits.drain_seconds = 0.2;
  TestServer server(world);
  server.controls().step_us = 20'000;
  RawClient stream(server.port());
  stream.send(endless(true));
  ASSERT_TRUE(stream.receive_until("data: "));
  RawClient whole(server.port());
  whole.send(endless(false));
  ASSERT_TRUE(busy_within(server, 5000, 2));
  server.stop();
  const auto list = test::events(stream.response().body);
  EXPECT_EQ(list.back()["error"]["code"], 503);
  EXPECT_EQ(whole.response().status, 503);
}

TEST(Draining, AnIdleServerStopsAtOnce) {
  World world;
  world.options.limits.drain_seconds = 60;
  TestServer server(world);
  RawClient idle(server.port());
  EXPECT_EQ(idle.ask("GET", "/health").status, 200);
  const auto begin = Clock::now();
  server.stop();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
}

// A process of its own, since signals are the process's.
int exit_code_of(const std::function<void(uint16_t port, pid_t pid)>& act, bool load = true) {
  int pipes[2];
  EXPECT_EQ(::pipe(pipes), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    World world;
    world.load = load;
    world.options.handle_signals = true;
    world.options.limits.drain_seconds = 0.3;
    TestServer server(world);
    server.controls().step_us = 5000;
    const uint16_t port = server.port();
    if (::write(pipes[1], &port, sizeof port) != sizeof port) {
      ::_exit(99);
    }
    ::_exit(server.join());
  }
  uint16_t port = 0;
  EXPECT_EQ(::read(pipes[0], &port, sizeof port), static_cast<ssize_t>(sizeof port));
  act(port, pid);
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::close(pipes[0]);
  ::close(pipes[1]);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Signals, TheFirstDrains) {
  for (const int signal : {SIGTERM, SIGINT}) {
    std::string body;
    EXPECT_EQ(exit_code_of([&](uint16_t port, pid_t pid) {
                RawClient client(port);
                client.send(endless(true));
                ASSERT_TRUE(client.receive_until("data: "));
                ::kill(pid, signal);
                body = client.response().body;
              }),
              signal);
    EXPECT_EQ(test::events(body).back()["error"]["message"], "the server is shutting down");
  }
}

TEST(Signals, WhileNothingRunsOrNothingIsLoaded) {
  EXPECT_EQ(exit_code_of([](uint16_t, pid_t pid) { ::kill(pid, SIGTERM); }), SIGTERM);
  EXPECT_EQ(exit_code_of(
                [](uint16_t port, pid_t pid) {
                  EXPECT_EQ(RawClient(port).ask("GET", "/health").status, 503);
                  ::kill(pid, SIGINT);
                },
                false),
            128 + SIGINT);
}

}  // namespace
}  // namespace fl::server
