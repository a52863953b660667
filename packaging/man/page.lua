-- docs/configuration.md as a man page, for pandoc. Its tables become lists: a terminal is too narrow for
-- columns of which one has whole paragraphs.

local DOCS = "/usr/share/doc/cohortd/docs/"

local function inlines(cell)
  return pandoc.utils.blocks_to_inlines(cell)
end

-- All cells of a row but the last are what its last one is about.
local function as_list(table)
  table = pandoc.utils.to_simple_table(table)
  local items, of_table = {}, nil
  for _, row in ipairs(table.rows) do
    local term = pandoc.List()
    for i = 1, #row - 1 do
      local cell, title = inlines(row[i]), pandoc.utils.stringify(table.header[i])
      if title == "table" then -- said once, for the rows that follow too
        if #cell == 0 then cell = of_table else of_table = cell end
      end
      if cell and #cell > 0 then
        if #term > 0 then term:insert(pandoc.Space()) end
        local word = pandoc.utils.stringify(cell)
        if title == "default" and not word:find("^required") then
          term:extend({ pandoc.Str("(default:"), pandoc.Space() })
          term:extend(cell)
          term:insert(pandoc.Str(")"))
        elseif title == "default" then
          term:insert(pandoc.Str("("))
          term:extend(cell)
          term:insert(pandoc.Str(")"))
        else
          term:extend(cell)
        end
      end
    end
    items[#items + 1] = { term, { row[#row] } }
  end
  return pandoc.DefinitionList(items)
end

-- Links within the page are words; those to other pages say where these are.
local function as_words(link)
  if link.target:find("^%a+:") then return nil end
  local page = link.target:match("^([%w-]+%.md)")
  if page then
    link.content:extend({ pandoc.Space(), pandoc.Str("(" .. DOCS .. page .. ")") })
  end
  return link.content
end

function Pandoc(doc)
  local name = "cohortd.toml - an app's configuration, for cohortd(8)"
  local blocks = pandoc.List({
    pandoc.Header(1, "NAME"), pandoc.Para({ pandoc.Str(name) }), pandoc.Header(1, "DESCRIPTION"),
  })
  doc = doc:walk({ Table = as_list, Link = as_words })
  for _, block in ipairs(doc.blocks) do
    if block.t == "Header" then
      block.level = block.level - 1
      if block.level > 0 then blocks:insert(block) end -- the first is the page's title
    else
      blocks:insert(block)
    end
  end
  doc.blocks = blocks
  return doc
end
