// Preloaded into host and worker by the end-to-end test: writes down every outgoing connection and name look-up.
import { appendFileSync } from 'node:fs';
import dgram from 'node:dgram';
import dns from 'node:dns';
import net from 'node:net';

const file = process.env.PATCHWISE_TEST_CONNECTIONS;
if (file) {
  const note = (text) => appendFileSync(file, `${text}\n`);
  note(`watching ${process.pid} ${process.argv[1] ?? ''}`);
  const connect = net.Socket.prototype.connect;
  net.Socket.prototype.connect = function (...args) {
    const target = Array.isArray(args[0]) ? args[0][0] : args[0];
    note(`connect ${JSON.stringify(target)}`);
    return connect.apply(this, args);
  };
  const send = dgram.Socket.prototype.send;
  dgram.Socket.prototype.send = function (...args) {
    note('datagram');
    return send.apply(this, args);
  };
  for (const name of ['lookup', 'resolve', 'resolve4', 'resolve6']) {
    const original = dns[name];
    dns[name] = (host, ...rest) => {
      if (host !== '127.0.0.1' && host !== 'localhost') note(`look-up ${host}`);
      return original(host, ...rest);
    };
  }
}
