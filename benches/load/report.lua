-- What wrk has measured, as JSON in the last line; latencies in microseconds.
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"units":%d,"rate":%f,"p50":%d,"p99":%d,"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.requests / (summary.duration / 1e6), latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
