-- wrk script: every request posts `events` fresh events; keys are salt + counter, so no two are equal.
-- Arguments after `--`: salt, events per request, ts.
local salt, events, ts
local sent = 0
local pieces = {}

local function piece(customer)
  return '","tenantId":"bench","metric":"api_calls","customerRef":"customer_' .. string.format("%08d", customer)
    .. '","quantity":1.25,"ts":"' .. ts .. '","meta":{"region":"eu-west-1","plan":"pro"}}'
end

function init(args)
  salt, events, ts = args[1], tonumber(args[2]), args[3]
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  for customer = 0, 999 do
    pieces[customer] = piece(customer)
  end
end

function request()
  local parts = {}
  for index = 1, events do
    sent = sent + 1
    parts[index] = '{"idempotencyKey":"' .. salt .. string.format("-%015d", sent) .. pieces[(sent * 7919) % 1000]
  end
  return wrk.format(nil, nil, nil, '{"events":[' .. table.concat(parts, ",") .. "]}")
end

function done(summary, latency, requests)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"bad":%d,"status":%d,"timeout":%d,"p50":%.3f,"p95":%.3f,"p99":%.3f}\n',
    summary.requests, summary.duration / 1e6, bad, errors.status, errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000
  ))
end
