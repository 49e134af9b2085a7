#!/usr/bin/env python3
"""Which output of compute-sanitizer is clean."""
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sanitizer_report import errors

RACE = ("========= Error: Race reported between Write access at fl::cuda::bulk_copy(void *)+0x20150 in async_copy.cuh:62\n"
        "=========     and Read access at fl::cuda::load16(const unsigned char *)+0x9110 in tile_math.cuh:29 [4096 hazards]\n========= \n")


class Errors(unittest.TestCase):
    def test_summaries(self):
        self.assertEqual(errors("[  PASSED  ] 10 tests.\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"), 0)
        self.assertEqual(errors(RACE + "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"), 1)
        self.assertEqual(errors("========= RACECHECK SUMMARY: 12 hazards displayed (0 errors, 12 warnings)\n"), 12)
        self.assertEqual(errors("========= ERROR SUMMARY: 0 errors\n"), 0)
        self.assertEqual(errors("========= ERROR SUMMARY: 1 error\n"), 1)

    def test_an_output_that_is_cut_is_no_result(self):
        self.assertIsNone(errors(RACE))
        self.assertIsNone(errors("[  PASSED  ] 10 tests.\n"))
        self.assertIsNone(errors("========= ERROR SUMMARY: 0 errors\n" * 2))


if __name__ == "__main__":
    unittest.main()
