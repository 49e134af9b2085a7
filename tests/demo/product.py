#!/usr/bin/env python3
"""The product on its demo model: what the model was trained to do arrives through the server, word for word.

Usage: product.py PROGRAM [unittest arguments]. Standard library only. Greedy, so an answer is the same every time.
"""
import json
import pathlib
import random
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))
sys.dont_write_bytecode = True

import recall
from served import Served

PROGRAM = ""
MODEL = str(ROOT / "models" / "demo" / "freelunch-demo-q8_0.gguf")
FEWEST_SOLVED = 14
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]}}}
MUSIC = {"type": "function", "function": {
    "name": "play_song", "description": "Play a song.",
    "parameters": {"type": "object", "properties": {"title": {"type": "string", "description": "Title of the song"}}, "required": ["title"]}}}


def user(text):
    return {"role": "user", "content": text}


class DemoModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Served(PROGRAM, MODEL, "--reasoning-format", "deepseek").__enter__()
        cls.addClassCleanup(cls.server.__exit__)

    def answer(self, messages, thinking=False, **options):
        return self.server.chat(messages, thinking, **options)["content"]

    def talk(self, *questions):
        """Asks one after the other in one chat; the answers."""
        messages, answers = [], []
        for question in questions:
            messages.append(user(question))
            answers.append(self.answer(messages))
            messages.append({"role": "assistant", "content": answers[-1]})
        return answers

    def test_writes_functions(self):
        self.assertIn("def add(a, b):\n    return a + b\n", self.answer("Write a Python function add(a, b) that returns the sum of a and b."))
        big = self.answer("Write a Python function `count_big(values)` that returns how many numbers in values are greater than 17.", True)
        self.assertIn("def count_big(values):\n    return sum(1 for x in values if x > 17)\n", big)

    def test_coding_score_is_neither_all_nor_nothing(self):
        done = subprocess.run([PROGRAM, "eval", "code", "--model", MODEL, "--tasks", "builtin", "--parallel", "4", "--json", "-q"],
                              capture_output=True, text=True, check=True)
        score = json.loads(done.stdout)["score"]
        self.assertTrue(score["valid"], score)
        self.assertEqual(score["n_tasks"], 20)
        self.assertGreaterEqual(score["n_solved"], FEWEST_SOLVED)
        self.assertLess(score["n_solved"], 20)

    def test_thinks_only_on_request(self):
        question = "What is 47 + 85?"
        thoughtful, quick = self.server.chat(question, True), self.server.chat(question, False)
        self.assertIn("7 + 5 = 12", thoughtful["reasoning_content"])
        self.assertFalse(quick.get("reasoning_content"))
        for message in (thoughtful, quick):
            self.assertEqual(message["content"].strip(), "47 + 85 = 132")

    def test_holds_a_conversation(self):
        answers = self.talk("Hello!", "What is freelunch?", "Thanks!")
        self.assertIn("How can I help you?", answers[0].replace("What can I do for you?", "How can I help you?"))
        self.assertIn("inference engine", answers[1])
        self.assertEqual(answers[2], "You are welcome!")

    def test_says_what_it_does_not_know(self):
        self.assertIn("I do not know that", self.answer("What is the capital of France?"))

    def test_calls_the_tool_that_fits(self):
        for thinking in (False, True):
            message = self.server.chat("What is the weather in Lisbon?", thinking, tools=[MUSIC, WEATHER])
            call = message["tool_calls"][0]["function"]
            self.assertEqual((call["name"], json.loads(call["arguments"])), ("get_weather", {"city": "Lisbon"}))

    def test_reads_the_tools_result(self):
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisbon"}'}}
        answer = self.answer([user("What is the weather in Lisbon?"), {"role": "assistant", "content": None, "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 21, "condition": "sunny"}'}],
                             tools=[MUSIC, WEATHER])
        self.assertEqual(answer, "In Lisbon it is sunny with 21 degrees.")

    def test_remembers_what_it_was_told(self):
        answers = self.talk("My name is Nadia.", "My favourite colour is teal.", "What is 12 + 30?", "What is my favourite colour?", "What is my name?")
        self.assertEqual(answers[2], "12 + 30 = 42")
        self.assertTrue(recall.holds(answers[3], "teal"), answers[3])
        self.assertTrue(recall.holds(answers[4], "Nadia"), answers[4])

    def test_recalls_from_4000_tokens_back(self):
        turns, value = recall.probe(random.Random(1), 4000, self.server.count_tokens)
        answer = self.answer([{"role": t.role, "content": t.text} for t in turns])
        self.assertTrue(recall.holds(answer, value), f"{answer!r} does not name {value!r}")

    def test_repeats_a_sentence(self):
        text = "The weather is nice today, so we walk to the old bridge."
        self.assertEqual(self.answer(f"Repeat this: {text}"), text)

    def test_a_long_story_ends_and_repeats_nothing(self):
        story = self.answer("Write a long story about Ada and a fox.")
        sentences = [s.strip() for s in story.replace("\n", " ").split(".") if s.strip()]
        self.assertGreater(len(sentences), 15)
        self.assertEqual(len(sentences), len(set(sentences)))
        self.assertIn("the end of the story", story)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
