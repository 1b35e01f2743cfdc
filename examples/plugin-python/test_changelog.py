import unittest

import changelog

TEXT = """# Changes

## [1.1.0] - 2026-01-24

- One
- Two

## v1.0.0
* First
"""


class Releases(unittest.TestCase):
    def test_a_release_is_found_with_its_items(self):
        found = changelog.release(TEXT, "v1.1.0")
        self.assertEqual(found.date, "2026-01-24")
        self.assertEqual(found.items, ["One", "Two"])
        self.assertEqual(changelog.release(TEXT, "1.0.0").items, ["First"])

    def test_another_version_is_not(self):
        self.assertIsNone(changelog.release(TEXT, "1.1"))


if __name__ == "__main__":
    unittest.main()
