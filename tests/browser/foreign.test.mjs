// Plain pages: the deprecated login by `fetch`, the errors that a page can read, and pages of origins that no tenant allows.
// The functions given to `evaluate` run in the page, and return what the page sees.

import assert from "node:assert/strict";
import { test } from "node:test";
