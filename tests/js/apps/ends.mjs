// The same as an ES module.
import "./ends.js";
