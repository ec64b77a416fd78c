// Compiled, never run: what an ES module finds, in Node.js and in bundlers.

import { expectTypeOf } from 'expect-type';
import WSMsgBroker, { Server } from 'wsmsgbroker';
import Browser, { Server as BrowserServer } from 'wsmsgbroker/browser';

expectTypeOf(new WSMsgBroker('a', 'ws://localhost')).toEqualTypeOf<WSMsgBroker>();
expectTypeOf(new Browser('a', 'ws://localhost')).toEqualTypeOf<Browser>();
expectTypeOf(Server).toEqualTypeOf(WSMsgBroker.Server);
expectTypeOf(BrowserServer).toEqualTypeOf(Browser.Server);
expectTypeOf<Browser.ClientOptions>().toHaveProperty('token');

// @ts-expect-error a page loads the script: it is no module
import('wsmsgbroker/browser/wsmsgbroker.js');
// @ts-expect-error what is not exported is not there
import('wsmsgbroker/lib/client');
