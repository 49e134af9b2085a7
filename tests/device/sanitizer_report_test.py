#!/usr/bin/env python3
"""What sanitizer_report takes for the tool's blindness, and that anything else counts."""
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sanitizer_report

COPY = "fl::cuda::bulk_copy(void *, const void *, unsigned int, unsigned long *)+0x20150 in async_copy.cuh:62"
READ = "fl::cuda::load16(const unsigned char *)+0x9110 in tile_math.cuh:29"
DECODE = "void fl::cuda::<unnamed>::decode_256<(fl::DType)1, (fl::DType)1>(fl::cuda::<unnamed>::Args)+0x3b10 in attention_decode.cu:389"


def report(first, *others, kind="Error"):
    return (f"========= {kind}: Race reported between {first[0]} access at {first[1]}\n"
            + "".join(f"=========     and {other} access at {place} [4096 hazards]\n" for other, place in others) + "========= \n")


def racecheck(*reports, shown=None):
    n = len(reports) if shown is None else shown
    return "".join(reports) + f"========= RACECHECK SUMMARY: {n} hazard{'' if n == 1 else 's'} displayed ({n} errors, 0 warnings)\n"


class Judge(unittest.TestCase):
    def judge(self, said, tool="racecheck"):
        return sanitizer_report.judge(tool, said)

    def test_a_ring_that_bulk_copies_fill_is_left_out(self):
        self.assertEqual(self.judge(racecheck(report(("Write", COPY), ("Read", READ), ("Read", "")))), (0, 1))
        self.assertEqual(self.judge(racecheck(report(("Read", READ), ("Write", COPY.replace("bulk_copy", "bulk_copy_streamed"))))), (0, 1))

    def test_everything_else_counts(self):
        self.assertEqual(self.judge(racecheck(report(("Read", DECODE), ("Write", DECODE)))), (1, 0))
        self.assertEqual(self.judge(racecheck(report(("Read", READ), ("Write", COPY), ("Write", DECODE)))), (1, 0))
        self.assertEqual(self.judge(racecheck(report(("Read", COPY), ("Write", READ)))), (1, 0))
        self.assertEqual(self.judge(racecheck(report(("Write", COPY.replace("async_copy", "other")), ("Read", READ)))), (1, 0))
        self.assertEqual(self.judge(racecheck(report(("Write", COPY.replace("bulk_copy", "tensor_copy")), ("Read", READ)))), (1, 0))
        self.assertEqual(self.judge(racecheck(report(("Read", DECODE), ("Write", DECODE), kind="Warning"))), (1, 0))
        both = racecheck(report(("Write", COPY), ("Read", READ)), report(("Read", DECODE), ("Write", DECODE)))
        self.assertEqual(self.judge(both), (1, 1))

    def test_a_report_that_is_cut_or_not_understood_is_no_result(self):
        self.assertIsNone(self.judge(report(("Write", COPY), ("Read", READ))))
        self.assertIsNone(self.judge(racecheck(report(("Write", COPY), ("Read", READ)), shown=2)))
        self.assertIsNone(self.judge(racecheck("========= Error: Potential RAW hazard detected\n")+""))
        self.assertEqual(self.judge(racecheck(report(("Write", COPY)))), (1, 0))

    def test_the_other_tools(self):
        for tool in ("memcheck", "initcheck"):
            self.assertEqual(self.judge("========= ERROR SUMMARY: 0 errors\n", tool), (0, 0))
            self.assertEqual(self.judge("========= ERROR SUMMARY: 1 error\n", tool), (1, 0))
            self.assertIsNone(self.judge("[  PASSED  ] 10 tests.\n", tool))


if __name__ == "__main__":
    unittest.main()
