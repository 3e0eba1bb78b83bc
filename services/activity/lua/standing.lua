return cjson.encode(standing(ARGV[1]))
