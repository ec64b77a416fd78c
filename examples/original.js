// A program written for version 1, from the README of 1.7.2. It prints the same with both versions.

var WSMsgBroker = require('wsmsgbroker');

var port = process.env.PORT || 9042;
var server = new WSMsgBroker.Server(port, 'foo');
var client0 = new WSMsgBroker('client0', 'localhost', port, 'foo');
var client1 = new WSMsgBroker('client1', 'localhost', port, 'foo');

client1.on('registered', function () {
  client1.on('message', function (msg, response) {
    if (response) {
      console.log('client1 received > ' + msg);
      response.send('Hi to you too, sir.');
    } else {
      console.log('client1 received > ' + JSON.stringify(msg));
      client0.close();
      client1.close();
      server.close();
    }
  });

  client0.send('Hi there', 'client1', function (from, answer) {
    console.log('client0 received an answer from ' + from + ' > ' + answer);

    // Without a callback "response" is null for the receiver.
    client0.send({ complex: 'thing' }, 'client1');
  });
});
