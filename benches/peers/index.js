// The packages beside this file, for apps in other folders: require("../peers")("socket.io").
module.exports = require;
